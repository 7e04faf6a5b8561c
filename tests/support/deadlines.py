"""How long tests wait for what has to happen, in one place.

Nothing is measured with these: a test that passes waits for its event and not a moment longer. They
are for a machine that is ten times slower than a quiet one, as those are on which changes are
checked beside others. What is to be quick is measured by `tests.bench`.
"""

PATIENCE_S = 60.0  # for an event of a process that runs: some milliseconds
DEADLINE_S = 120.0  # for a request, or a program from its start to its end: a few seconds
SET_UP_S = 900.0  # for what downloads, builds or installs: a minute or two
