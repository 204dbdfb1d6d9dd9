"""Any bytes give events, rows or a declared error: real events, damaged in every way that we can think of."""
