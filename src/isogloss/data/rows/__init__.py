"""Which tokens stand in which row, and in which order rows are visited: pure functions of the row's number."""
