"""Open vSwitch, and nothing else: rows of its database (`ovsdb`) and flows of its bridge (`openflow`).

`ovsdb` and `wire` are the only importers of the `ovs` library: it holds the connection and the
transactions. `replica` and `cache` keep the rows, `operations` turns changes into OVSDB's terms.
Knows rows and flow text; knows nothing of pods, peers, the kernel or a runtime.
Called by the agent and, through it, by the lab.
"""
