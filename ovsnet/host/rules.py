"""Rules of policy routing that lead marked packets to our own table (ip-rule(8)).

Owns all rules that lead to `STEERED_TABLE`, whoever made them, and touches no other. Sends nothing but dumps: says what
is to be asked for. Called by `gateway`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket
from collections.abc import Collection, Iterator

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, rtnl
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_TO_TBL, fibmsg

from ovsnet.errors import HostFailure
from ovsnet.host.messages import Change, Request, decoded, encoded
from ovsnet.host.netlink import Netlink
from ovsnet.host.types import STEERED_TABLE, RuleSpec

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_HEADER = ("dst_len", "src_len", "tos", "flags")
"""Fields of struct fib_rule_hdr (linux/fib_rules.h) that narrow what a rule is for."""
_USUAL = {"FRA_TABLE", "FRA_PRIORITY", "FRA_FWMARK", "FRA_FWMASK", "FRA_PROTOCOL", "FRA_SUPPRESS_PREFIXLEN"}
"""Attributes that the kernel tells of each rule, and our own; anything else narrows it."""
_NO_SUPPRESSION = 0xFFFFFFFF


def found(nl: Netlink, wanted: Collection[int]) -> frozenset[RuleSpec]:
    """All that lead to our table. wanted: IP versions of which there are to be some.

    Raises HostFailure where these can't be listed; a kernel without policy routing, or without IPv6, has none else.
    """
    rules: set[RuleSpec] = set()
    for version, family in _FAMILY.items():
        message = encoded(fibmsg, family=family)
        decode = functools.partial(decoded, fibmsg)
        with contextlib.nullcontext() if version in wanted else contextlib.suppress(HostFailure):
            for rule in nl.dump(rtnl.RTM_GETRULE, message, "list rules of policy routing", decode):
                if rule.get_attr("FRA_TABLE", rule["table"]) == STEERED_TABLE:
                    rules.add(_spec(version, rule))
    return frozenset(rules)


def _spec(version: int, rule: fibmsg) -> RuleSpec:
    attributes = {name for name, _ in rule["attrs"]}
    suppression = rule.get_attr("FRA_SUPPRESS_PREFIXLEN", _NO_SUPPRESSION)
    return RuleSpec(
        version=version,
        mark=rule.get_attr("FRA_FWMARK", 0),
        mask=rule.get_attr("FRA_FWMASK", 0),
        priority=rule.get_attr("FRA_PRIORITY", 0),
        odd=rule["action"] != FR_ACT_TO_TBL
        or any(rule[field] for field in _HEADER)
        or suppression != _NO_SUPPRESSION
        or not attributes <= _USUAL,
    )


def changes(wanted: Collection[RuleSpec], there: frozenset[RuleSpec]) -> Iterator[Change]:
    """From those that are there to those that are wanted, all of a family anew if one of it is not as it should be."""
    versions = {rule.version for rule in there.symmetric_difference(wanted)}
    for rule in sorted(there, key=lambda each: (each.version, each.priority)):
        if rule.version in versions:
            # The kernel takes the first that is like it: what is not said is not compared.
            request = Request(
                rtnl.RTM_DELRULE, 0, _message(rule, 0), f"remove the {_words(rule)}", (errno.ENOENT,)
            )
            yield Change(request, f"{_words(rule)} removed")
    for rule in wanted:
        if rule.version in versions:
            message = _message(rule, FR_ACT_TO_TBL, ("FRA_PROTOCOL", rtnl.rt_proto["static"]))
            request = Request(rtnl.RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, message, f"add the {_words(rule)}")
            yield Change(request, f"{_words(rule)} added")


def _message(rule: RuleSpec, action: int, *more: tuple[str, object]) -> bytes:
    mark: list[tuple[str, object]] = (
        [("FRA_FWMARK", rule.mark), ("FRA_FWMASK", rule.mask)] if rule.mask else []
    )
    attributes = [("FRA_PRIORITY", rule.priority), ("FRA_TABLE", rule.table), *mark, *more]
    return encoded(fibmsg, attributes, family=_FAMILY[rule.version], action=action)


def _words(rule: RuleSpec) -> str:
    odd = " and more" if rule.odd else ""
    return f"IPv{rule.version} rule {rule.priority}: fwmark {rule.mark:#x}/{rule.mask:#x}{odd} lookup {rule.table}"
