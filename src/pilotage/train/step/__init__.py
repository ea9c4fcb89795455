"""One optimiser step, in the order in which it happens: order, rows, readers, scores, routes, monitors."""
