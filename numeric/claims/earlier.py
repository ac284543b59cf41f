"""Claims that an earlier run has tested, for those that need not be tested again.

A newly trained network bears upon the claims on networks alone, which take minutes; all of them take hours.  With ``claims_from``
the claims that are named are tested, and the others are taken from a results file with everything in it: effects, verdicts,
explanations.  Every claim is judged by itself, so that they stand side by side if settings, images and rules are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from numeric import origins
from numeric.claims.config import ClaimsConfig
from numeric.claims.effects import Claim
from numeric.results import FileError, read_json, reading

FREE = ("networks", "name")
"""Settings that other claims than those on networks do not hang on."""


class EarlierClaims:
    """The results file of :mod:`numeric.claims.report`, to take claims from.

    Args:
        path: the file. wanted: claims to take from it. config: the settings as now asked for.

    Attributes:
        claims: their records. taken: who made them.

    Raises:
        FileNotFoundError: there is no such file. FileError: it is damaged.
        ValueError: no claim is left to take, one is not in the file, or it was made with another setting.
    """

    def __init__(self, path: str | Path, wanted: Collection[Claim], config: ClaimsConfig) -> None:
        self.path, record = Path(path), read_json(path)
        if not wanted:
            raise ValueError(f"claims_from={path} is given and all claims are to be tested: name those to test, or leave it out")
        if not isinstance(record, dict) or "claims" not in record or "error_rates" not in record:
            raise ValueError(f"{path} holds no tested claims: give the results file of `python -m numeric claims`")
        with reading(path, "record of claims"):
            found = {claim["name"]: claim for claim in record["claims"]}
            there, self._networks = dict(record["parameters"]), dict(record["networks"])
            self._data, self._rules = record["data"], record["rules"]
            self.taken = origins.taken([c.name for c in wanted], record, "claims")
        for claim in wanted:
            if claim.name not in found:
                raise ValueError(f"{path} does not hold the claim {claim.name!r}: name it among those to test")
        settings = {name: value for name, value in config.settings.items() if name not in FREE}
        origins.same(self.path, settings, there, "claims", "claims_from")
        self._on_networks = [c.name for c in wanted if c.on_networks]
        self.claims: list[dict[str, Any]] = [found[c.name] for c in wanted]

    def agree(self, data: Mapping[str, Any], networks: Mapping[str, Mapping[str, Any]], rules: str) -> None:
        """Make sure that the claims are of these images and rules, and those on networks of these networks.

        Args:
            data: split -> provenance. networks: records of the networks there are now, trained or not.

        Raises:
            ValueError: they are of others.
        """
        origins.same(self.path, data, self._data, "claims", "claims_from")
        if rules != self._rules:
            raise FileError(f"no claims can be taken from {self.path}: the rules of the verdicts were other ones; leave claims_from out")
        now, then = ({k: n["sha256"] for k, n in nets.items() if n["trained"]} for nets in (networks, self._networks))
        if self._on_networks and now != then:
            raise ValueError(
                f"the claims on networks in {self.path} are of {', '.join(then) or 'no trained network'}, now there are "
                f"{', '.join(now) or 'none'}, of other weights or number: name them among those to test ({', '.join(self._on_networks)})"
            )
