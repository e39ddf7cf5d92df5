"""Which packages are installed, of what the program and each of its extras ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec

from packaging.requirements import Requirement

from hierarchy.runtime.doctor.finding import Finding

PROJECT = "reflexarc"
# For who works on the project itself, in its folder.
DEVELOPERS = {"demo", "docs", "photos", "test"}
# Packages that also come by other names, or from the system, with the module that tells.
MODULES = {"opencv-python-headless": "cv2"}

VersionOf = Callable[[str], str | None]


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None where it is not installed, empty where nothing says which."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "" if package in MODULES and find_spec(MODULES[package]) else None


def extra_names() -> list[str]:
    """Return the extras that the installed program has for people; none where it is not installed."""
    try:
        names = metadata.metadata(PROJECT).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []
    return sorted(set(names) - DEVELOPERS)


def packages() -> Iterator[Finding]:
    """Look at what the program needs, then at what each extra does."""
    try:
        requires = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        yield Finding(name="packages", state="problem", text=f"{PROJECT} is not installed", remedy="pip install .")
        return
    yield package_finding("packages", requires, "", version_of)
    for extra in extra_names():
        yield package_finding(extra, requires, extra, version_of)


def package_finding(name: str, requires: Sequence[str], extra: str, version_of: VersionOf) -> Finding:
    """Return what is installed of an extra, or of what is needed without any.

    requires: lines as the metadata have them. version_of: as the function of that name.
    """
    asked = asked_for(requires, extra)
    lacking = [one for one in asked if not is_met(one, version_of)]
    if lacking:
        place = f"'{PROJECT}[{extra}]'" if extra else PROJECT
        wanted = ", ".join(f"{one.name}{one.specifier}" for one in lacking)
        older = any(version_of(one.name) for one in lacking)
        is_some = older or len(lacking) < len(asked)
        return Finding(
            name=name,
            state="problem" if older else "missing",
            text=f"{'of ' if is_some else ''}{'an older version of ' if older else ''}{wanted}".removeprefix("of "),
            remedy=f"pip install {'--upgrade ' if older else ''}{place}",
        )
    return Finding(name=name, text=", ".join(f"{one.name} {version_of(one.name)}".rstrip() for one in asked))


def asked_for(requires: Sequence[str], extra: str) -> list[Requirement]:
    """Return what an extra asks for on this Python, that of extras which it names included; "" for no extra."""
    found = list[Requirement]()
    for one in map(Requirement, requires):
        by_extra = "extra" in str(one.marker or "")
        if by_extra != bool(extra) or (one.marker and not one.marker.evaluate({"extra": extra})):
            continue
        if one.name == PROJECT:
            for other in sorted(one.extras):
                found += asked_for(requires, other)
        else:
            found.append(one)
    return found


def is_met(wanted: Requirement, version_of: VersionOf) -> bool:
    """Whether a package is installed as it is wanted. Of which nothing says the version counts."""
    version = version_of(wanted.name)
    return version is not None and (not version or wanted.specifier.contains(version, prereleases=True))
