"""From plain facts to findings. Pure: no I/O, no clock, no loop; each check is a function that a table can test."""
