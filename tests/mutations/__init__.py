"""For each mechanism that a promise rests on: a patch that takes it out, and the test that then fails."""
