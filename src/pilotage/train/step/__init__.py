"""One optimiser step, in the order in which it happens: order, rows, teachers, scores, routes, monitors."""
