"""The node agent: one asyncio loop that keeps `installed == render(state)`.

`app` composes it, `agent` is the loop, `attachments` serves CNI requests, `wiring` makes their ports
ready, `installer` owns what is on the switch.
"""
