"""What an operator with a broken cluster asks for: `ovsnet doctor` and `ovsnet support-bundle`.

    finding     ok, warning or fault; what was seen, what to do
    judge/      from plain facts to findings: pure, a function for each check
    look/       how the facts are found: OVSDB, files, the kernel, packets to the peers
    examine     all checks, each with its own time limit and its own failure
    redact      what no archive may hold
    bundle      the archive

Changes nothing on the node. Called by `cli`; nothing else imports it.
"""
