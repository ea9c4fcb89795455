"""The full-vocabulary loss, forward and backward, beside the plain computation and TRL's chunked function.

    python benchmarks/loss.py                      # one thread
    python benchmarks/loss.py --threads 2 --tokens 256

Time: all cases in one process, in turn, round after round; medians over rounds, and ratios to the fastest. CPU time
beside wall time, because the former is less disturbed by other work on the machine.
Memory: each case in a fresh process; peak resident memory less what was resident before the loss, so the gradients
of hidden states and head count, the inputs do not. Every case computes the mean over M tokens of the same divergence
and backpropagates it to the student's hidden states and head weight.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

NUM_ENTRIES, NUM_HIDDEN = 151_936, 256
BETAS = {"forward": 0.0, "reverse": 1.0, "jsd": 0.5}
CASES = ("naive", "trl", "pilotage")


def make_case(
    case: str, divergence: str, num_tokens: int, num_entries: int = NUM_ENTRIES
) -> Callable[[], float]:
    """A function that runs one forward and backward pass and returns the loss in nats."""
    import torch

    torch.manual_seed(0)
    student_MH = torch.randn(num_tokens, NUM_HIDDEN, requires_grad=True)
    teacher_MH = torch.randn(num_tokens, NUM_HIDDEN)
    # Scaled so that logits have a standard deviation of about 2, as a language model's do.
    student_VH = torch.randn(num_entries, NUM_HIDDEN).mul_(0.125).requires_grad_()
    teacher_VH = torch.randn(num_entries, NUM_HIDDEN).mul_(0.125)
    beta = BETAS[divergence]

    def naive() -> torch.Tensor:
        from pilotage.distill.divergences import JSD

        with torch.no_grad():
            teacher_logp_MV = (teacher_MH @ teacher_VH.t()).log_softmax(-1)
        student_logp_MV = (student_MH @ student_VH.t()).log_softmax(-1)
        if 0.0 < beta < 1.0:
            return JSD(beta=beta)(student_logp_MV, teacher_logp_MV).mean()
        target, source = (
            (teacher_logp_MV, student_logp_MV) if beta == 0.0 else (student_logp_MV, teacher_logp_MV)
        )
        return torch.nn.functional.kl_div(source, target, reduction="batchmean", log_target=True)

    def trl() -> torch.Tensor:
        from trl.trainer.distillation_trainer import _chunked_divergence_loss

        loss, _, _ = _chunked_divergence_loss(
            student_MH[None], teacher_MH[None], student_VH, teacher_VH, torch.ones(1, num_tokens), beta
        )
        return loss

    def pilotage() -> torch.Tensor:
        from pilotage.distill.chunked import Head
        from pilotage.distill.divergences import JSD
        from pilotage.distill.estimators import FullVocabulary

        loss = FullVocabulary(divergence=JSD(beta=beta))(
            student=Head(hidden_MH=student_MH, weight_VH=student_VH),
            teacher=Head(hidden_MH=teacher_MH, weight_VH=teacher_VH),
            weight_M=torch.full((num_tokens,), 1.0 / num_tokens),
        )
        return loss.value_M.sum()

    compute = {"naive": naive, "trl": trl, "pilotage": pilotage}[case]

    def run() -> float:
        student_MH.grad = student_VH.grad = None
        loss = compute()
        loss.backward()
        return loss.item()

    return run


def _status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status: this benchmark needs Linux")


def print_peak(case: str, divergence: str, num_tokens: int) -> None:
    """Child process: prints the peak memory of one pass above what was there before, in MiB."""
    make_case(case, divergence, 4, num_entries=512)()  # imports, thread pools, kernels
    run = make_case(case, divergence, num_tokens)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status_mib("VmRSS")
    run()
    print(_status_mib("VmHWM") - before)


def peak_mib(case: str, divergence: str, num_tokens: int, num_threads: int) -> float:
    """Peak memory of one pass in a fresh process, MiB."""
    command = [
        sys.executable,
        __file__,
        "--peak",
        case,
        "--divergences",
        divergence,
        "--tokens",
        str(num_tokens),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def seconds(divergence: str, num_tokens: int, num_rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of one pass by case, measured in turn."""
    runs = {case: make_case(case, divergence, num_tokens) for case in CASES}
    losses = {case: run() for case, run in runs.items()}
    assert max(losses.values()) - min(losses.values()) < 1e-3 * abs(losses["naive"]), losses
    times: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
    for _ in range(num_rounds):
        for case, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[case].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        case: (statistics.median(w for w, _ in values), statistics.median(c for _, c in values))
        for case, values in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 256, 1024])
    parser.add_argument("--divergences", nargs="+", choices=BETAS, default=list(BETAS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print_peak(args.peak, args.divergences[0], args.tokens[0])
        return

    import torch

    torch.set_num_threads(args.threads)
    print(
        f"V = {NUM_ENTRIES:,}, hidden {NUM_HIDDEN}, float32, {args.threads} thread(s), torch {torch.__version__}\n"
    )
    print("| divergence | tokens | case | wall s | x fastest | CPU s | x fastest | extra peak MiB | x ours |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for divergence in args.divergences:
        for num_tokens in args.tokens:
            peaks = {case: peak_mib(case, divergence, num_tokens, args.threads) for case in CASES}
            times = seconds(divergence, num_tokens, args.rounds)
            fastest_wall, fastest_cpu = (min(time[i] for time in times.values()) for i in (0, 1))
            for case in CASES:
                wall, cpu = times[case]
                print(
                    f"| {divergence} | {num_tokens:,} | {case} | {wall:.2f} | {wall / fastest_wall:.2f} | {cpu:.2f} "
                    f"| {cpu / fastest_cpu:.2f} | {peaks[case]:.0f} | {peaks[case] / peaks['pilotage']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
