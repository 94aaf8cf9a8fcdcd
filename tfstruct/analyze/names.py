"""Groups by a name that no other group has."""

from collections import Counter

from tfstruct.graph import Graph, Group, groups


def by_name(graph: Graph) -> dict[str, Group]:
    """Every group, in order. Where several have one name, such as the heads and widths that one Dense makes, each is
    called after its last maker, or gets a number."""
    found = groups(graph)
    uses = Counter(group.name for group in found)
    named: dict[str, Group] = {}
    for group in found:
        name = group.name if uses[group.name] == 1 else group.makers[-1]
        unique, number = name, 2
        while unique in named:
            unique, number = f"{name}#{number}", number + 1
        named[unique] = group
    return named
