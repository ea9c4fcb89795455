"""`pilotage data …`: data sets on disk."""

from __future__ import annotations

from dataclasses import dataclass

from pilotage.cli.progress import Bar
from pilotage.data.build import BuildConfig, build


@dataclass(frozen=True, kw_only=True)
class Build(BuildConfig):
    """Write a data set: levels of every task with their pictures, states, facts and plans.

    The same arguments give the same content, whatever the number of workers. A state belongs to
    train, val or test by its own hash, so that no two data sets ever disagree. Killed and run again
    with the same arguments, the build goes on where it was.
    """

    def run(self) -> int:
        with Bar("data build", unit="levels") as bar:
            manifest = build(self, bar)
        for task, levels in manifest["counts"].items():
            for level, splits in levels.items():
                counts = ", ".join(f"{split} {sum(tally.values())}" for split, tally in splits.items())
                print(f"{task:<14} level {level:>2}: {counts}")
        print(f"{self.out} holds {manifest['num_examples']} examples, sha256 {manifest['sha256'][:16]}…")
        return 0
