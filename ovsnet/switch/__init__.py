"""Open vSwitch, and nothing else: rows of its database (`ovsdb`) and flows of its bridge (`openflow`).

`ovsdb` and what it is made of (`wire`, `schema`, `operations`) are the only importers of the `ovs`
library. Knows rows and flow text; knows nothing of pods, peers, the kernel or a runtime.
Called by the agent and, through it, by the lab.
"""
