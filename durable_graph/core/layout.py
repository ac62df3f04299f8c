"""Where the boxes of a drawing stand and which way its arrows take: in layers, from the first box down to the last.

The rule: boxes never overlap, and no arrow runs through a box. This is the method of Sugiyama, in four steps:

    turned      arrows that close a cycle are turned around until the drawing is done
    layers      boxes stand in layers, every other one; each arrow goes down, through a knot in each layer between:
                there it has a place of its own, and in one of them, its label
    order       within the layers: such that few arrows cross (sweeps by the mean of neighbours, then swaps)
    columns     Brandes and Köpf, "Fast and Simple Horizontal Coordinate Assignment" (2001), with its compaction done
                over whole blocks: four extreme placements, of which each box gets the middle

Between two layers there is nothing but arrows, within a layer they run straight down: so they meet no box. The same
input gives the same output: nothing here depends on hashes, time or chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

APART = 26.0  # between two boxes of a layer, in the pixels of everything here
LANE = 7.0  # on each side of an arrow that passes a layer
GAP, MOST_GAP = 15.0, 58.0  # between two layers: more where arrows go far aside
PORTS = 8.0  # half of the distance between two arrows at a box
MOST_KNOTS = 6_000  # of all arrows together; with more, the longest run straight through, behind the boxes
SWEEPS = 24


class Block(NamedTuple):
    """A box to be placed. `enter` and `leave`: where arrows come in above and go out below, from the left; and how far
    from there to each side they may."""

    width: float
    height: float
    aside: float = 0.0  # room to be kept free on its right
    enter: tuple[float, float] | None = None
    leave: tuple[float, float] | None = None


class Link(NamedTuple):
    """An arrow, between two blocks that are not the same, by their numbers; and the size of its label."""

    source: int
    target: int
    width: float = 0.0
    height: float = 0.0


Point = tuple[float, float]


class Route(NamedTuple):
    """The way of an arrow: straight down or up within a layer, aside only between two of them."""

    points: list[Point]
    label: Point | None  # its middle


@dataclass(frozen=True, slots=True)
class Layout:
    width: float
    height: float
    corners: list[Point]  # left and upper, of each block
    routes: list[Route]  # of each link


def laid_out(blocks: Sequence[Block], links: Sequence[Link], first: int | None, last: int | None) -> Layout:
    """Place the blocks. `first` stands above all others, `last` below them."""
    if not blocks:
        return Layout(0.0, 0.0, [], [])
    down = _turned(len(blocks), links, first, last)
    levels = _levels(len(blocks), down, first, last)
    net = _Net(blocks, links, down, levels)
    _order(net)
    _columns(net)
    return _finished(net)


# --- turning arrows around --------------------------------------------------------------------


def _turned(count: int, links: Sequence[Link], first: int | None, last: int | None) -> list[tuple[int, int]]:
    """Each link as (upper, lower), so that there is no cycle."""
    after: list[list[int]] = [[] for _ in range(count)]
    upwards = [link.target == first or link.source == last for link in links]
    for link, is_up in zip(links, upwards, strict=True):
        if not is_up:
            after[link.source].append(link.target)
    closing = _closing(after, [*([] if first is None else [first]), *range(count)])
    return [
        (link.target, link.source) if is_up or (link.source, link.target) in closing else (link.source, link.target)
        for link, is_up in zip(links, upwards, strict=True)
    ]


def _closing(after: Sequence[Sequence[int]], roots: Iterable[int]) -> set[tuple[int, int]]:
    """Links that lead back to where a walk has come from."""
    found: set[tuple[int, int]] = set()
    seen, above = set[int](), set[int]()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        above.add(root)
        path = [(root, iter(after[root]))]
        while path:
            here, targets = path[-1]
            target = next(targets, None)
            if target is None:
                above.discard(here)
                path.pop()
            elif target in above:
                found.add((here, target))
            elif target not in seen:
                seen.add(target)
                above.add(target)
                path.append((target, iter(after[target])))
    return found


# --- layers -----------------------------------------------------------------------------------


def _levels(count: int, down: Sequence[tuple[int, int]], first: int | None, last: int | None) -> list[int]:
    """The layer of each block: an even number. Odd ones are for labels and for arrows that go to and fro."""
    below: list[list[int]] = [[] for _ in range(count)]
    above: list[list[int]] = [[] for _ in range(count)]
    for upper, lower in down:
        below[upper].append(lower)
        above[lower].append(upper)
    top = 0 if first is None else 2
    levels = [top] * count
    if first is not None:
        levels[first] = 0
    order = _sorted_down(below, above)
    for block in order:
        for lower in below[block]:
            levels[lower] = max(levels[lower], levels[block] + 2)
    if last is not None and count > 1:
        levels[last] = max(level for block, level in enumerate(levels) if block != last) + 2
    for block in reversed(order):  # those that more arrows leave than reach stand better further down
        if block not in (first, last) and len(below[block]) > len(above[block]):
            levels[block] = max(levels[block], min(levels[lower] for lower in below[block]) - 2)
    return levels


def _sorted_down(below: Sequence[Sequence[int]], above: Sequence[Sequence[int]]) -> list[int]:
    left = [len(uppers) for uppers in above]
    order = [block for block, number in enumerate(left) if not number]
    for block in order:  # grows meanwhile
        for lower in below[block]:
            left[lower] -= 1
            if not left[lower]:
                order.append(lower)
    return order


# --- blocks and knots -------------------------------------------------------------------------


@dataclass(slots=True)
class _Dot:
    """A block in its layer, or a knot of an arrow that passes."""

    level: int
    left: float  # how far it reaches from its middle
    right: float
    height: float
    is_knot: bool
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    place: int = 0  # in its layer
    x: float = 0.0


class _Net:
    """Everything that gets a place. The first dots are the blocks."""

    def __init__(
        self, blocks: Sequence[Block], links: Sequence[Link], down: Sequence[tuple[int, int]], levels: Sequence[int]
    ) -> None:
        self.blocks, self.links, self.down = blocks, links, down
        self.dots = [
            _Dot(level, block.width / 2 + APART / 2, block.width / 2 + block.aside + APART / 2, block.height, False)
            for block, level in zip(blocks, levels, strict=True)
        ]
        longest = _longest(sorted(levels[lower] - levels[upper] for upper, lower in down))
        self.chains = [  # of each link: upper, knots, lower
            self._chain(link, *ends) if levels[ends[1]] - levels[ends[0]] <= longest else [*ends]
            for link, ends in zip(links, down, strict=True)
        ]
        self.layers: list[list[int]] = [[] for _ in range(max(levels) + 1)]
        for number in self._outwards():
            layer = self.layers[self.dots[number].level]
            self.dots[number].place = len(layer)
            layer.append(number)

    def _chain(self, link: Link, upper: int, lower: int) -> list[int]:
        dots = self.dots
        labelled = dots[upper].level + 1 if link.source == upper else dots[lower].level - 1
        chain = [upper]
        for level in range(dots[upper].level + 1, dots[lower].level):
            wide = link.width / 2 if level == labelled else 0.0
            chain.append(len(dots))
            dots.append(_Dot(level, wide + LANE, wide + LANE, link.height if level == labelled else 0.0, True))
        chain.append(lower)
        for above, below in pairwise(chain):
            dots[above].below.append(below)
            dots[below].above.append(above)
        return chain

    def _outwards(self) -> Iterator[int]:
        """All dots, each beside those that it was reached with from above: a first order that is not bad."""
        seen: set[int] = set()
        for root in sorted(range(len(self.blocks)), key=lambda block: self.dots[block].level):
            path = [root]
            while path:
                dot = path.pop()
                if dot not in seen:
                    seen.add(dot)
                    yield dot
                    path += reversed(self.dots[dot].below)


def _longest(spans: Sequence[int]) -> int:
    """How many layers an arrow may go down with knots, if all knots together shall not be too many."""
    knots = 0
    for span in spans:
        knots += span - 1
        if knots > MOST_KNOTS:
            return span - 1
    return spans[-1] if spans else 0


# --- order in the layers ----------------------------------------------------------------------


def _order(net: _Net) -> None:
    best, fewest = [*map(list, net.layers)], _crossings(net)
    sweeps = SWEEPS if len(net.dots) < 1_500 else SWEEPS // 4
    for sweep in range(sweeps):
        if not fewest:
            break
        _sweep(net, downwards=sweep % 2 == 0)
        if len(net.dots) < 1_500:
            _swap(net)
        if (crossings := _crossings(net)) < fewest:
            best, fewest = [*map(list, net.layers)], crossings
    for level, layer in enumerate(best):
        _put(net, level, layer)


def _put(net: _Net, level: int, layer: list[int]) -> None:
    net.layers[level] = layer
    for place, number in enumerate(layer):
        net.dots[number].place = place


def _sweep(net: _Net, downwards: bool) -> None:
    """Each layer in the order of the means of its neighbours in the one before it."""
    levels = range(1, len(net.layers)) if downwards else range(len(net.layers) - 2, -1, -1)
    for level in levels:
        wanted = {number: _mean(net, number, downwards) for number in net.layers[level]}
        _put(net, level, sorted(net.layers[level], key=wanted.__getitem__))


def _mean(net: _Net, number: int, downwards: bool) -> float:
    dot = net.dots[number]
    near = dot.above if downwards else dot.below
    return sum(net.dots[other].place for other in near) / len(near) if near else dot.place


def _swap(net: _Net) -> None:
    """Neighbours of a layer, wherever fewer arrows cross then."""
    dots = net.dots
    for layer in net.layers:
        for place in range(len(layer) - 1):
            one, two = layer[place], layer[place + 1]
            if _between(net, two, one) < _between(net, one, two):
                layer[place], layer[place + 1] = two, one
                dots[two].place, dots[one].place = place, place + 1


def _between(net: _Net, one: int, two: int) -> int:
    """How many arrows of these two cross if `one` stands left of `two`."""
    left, right = net.dots[one], net.dots[two]
    return _passing(net, left.above, right.above) + _passing(net, left.below, right.below)


def _passing(net: _Net, ends: Sequence[int], others: Sequence[int]) -> int:
    return sum(net.dots[end].place > net.dots[other].place for end in ends for other in others)


def _crossings(net: _Net) -> int:
    return sum(_crossings_below(net, layer) for layer in net.layers)


def _crossings_below(net: _Net, layer: Sequence[int]) -> int:
    """Barth, Mutzel and Jünger, "Simple and Efficient Bilayer Cross Counting" (2002): inversions, by a tree of sums."""
    dots = net.dots
    ends = [place for number in layer for place in sorted(dots[lower].place for lower in dots[number].below)]
    size = 1
    while size <= max(ends, default=0):
        size *= 2
    tree, crossings = [0] * (2 * size), 0
    for end in ends:
        node = end + size
        tree[node] += 1
        while node > 1:
            if node % 2 == 0:
                crossings += tree[node + 1]
            node //= 2
            tree[node] += 1
    return crossings


# --- columns ----------------------------------------------------------------------------------


def _columns(net: _Net) -> None:
    banned = _banned(net)
    placements = [_placement(net, banned, up, left) for up in (True, False) for left in (True, False)]
    narrowest = min(placements, key=lambda xs: _span(net, xs)[1] - _span(net, xs)[0])
    low, high = _span(net, narrowest)
    for number, xs in enumerate(placements):
        its_low, its_high = _span(net, xs)
        shift = low - its_low if number % 2 == 0 else high - its_high
        placements[number] = [x + shift for x in xs]
    for dot, four in zip(net.dots, zip(*placements, strict=True), strict=True):
        _, one, two, _ = sorted(four)
        dot.x = (one + two) / 2


def _span(net: _Net, xs: Sequence[float]) -> tuple[float, float]:
    ends = zip(net.dots, xs, strict=True)
    lows, highs = zip(*((x - dot.left, x + dot.right) for dot, x in ends), strict=True)
    return min(lows), max(highs)


def _banned(net: _Net) -> set[tuple[int, int]]:
    """Pieces of arrows that cross a piece between two knots, which is to be straight."""
    banned: set[tuple[int, int]] = set()
    for upper, layer in pairwise(net.layers):
        low, scanned = -1, 0
        for place, number in enumerate(layer):
            inner = _inner(net, number)
            if inner is None and place < len(layer) - 1:
                continue
            high = len(upper) if inner is None else net.dots[inner].place
            for other in layer[scanned : place + 1]:
                for above in net.dots[other].above:
                    if not low <= net.dots[above].place <= high and not _is_inner(net, above, other):
                        banned.add((above, other))
            low, scanned = high, place + 1
    return banned


def _inner(net: _Net, number: int) -> int | None:
    """The knot above a knot."""
    return next((above for above in net.dots[number].above if _is_inner(net, above, number)), None)


def _is_inner(net: _Net, above: int, number: int) -> bool:
    return net.dots[above].is_knot and net.dots[number].is_knot


def _placement(net: _Net, banned: set[tuple[int, int]], up: bool, left: bool) -> list[float]:
    """One of the four: in line with what is above or below, and as far to the left or to the right as may be."""
    layers = [layer if left else layer[::-1] for layer in (net.layers if up else net.layers[::-1])]
    place = [0] * len(net.dots)
    for layer in layers:
        for number, dot in enumerate(layer):
            place[dot] = number
    root = _aligned(net, layers, place, banned, up)
    xs = _compacted(net, layers, root, left)
    return xs if left else [-x for x in xs]


def _aligned(
    net: _Net, layers: Sequence[Sequence[int]], place: Sequence[int], banned: set[tuple[int, int]], up: bool
) -> list[int]:
    """Of each dot the first one of the column that it belongs to."""
    root = list(range(len(net.dots)))
    taken: set[int] = set()  # by a dot of the layer below it
    for layer in layers[1:]:
        reached = -1
        for dot in layer:
            near = sorted(net.dots[dot].above if up else net.dots[dot].below, key=place.__getitem__)
            for other in near[(len(near) - 1) // 2 : len(near) // 2 + 1]:
                pair = (other, dot) if up else (dot, other)
                if root[dot] == dot and other not in taken and reached < place[other] and pair not in banned:
                    root[dot] = root[other]
                    taken.add(other)
                    reached = place[other]
    return root


def _compacted(net: _Net, layers: Sequence[Sequence[int]], root: Sequence[int], left: bool) -> list[float]:
    """Columns side by side: first each as far to the left as it goes, then back to the right where there is room."""
    right_of: dict[int, dict[int, float]] = {number: {} for number in root}
    left_of: dict[int, dict[int, float]] = {number: {} for number in root}
    for layer in layers:
        for one, two in pairwise(layer):
            between = net.dots[one].right + net.dots[two].left if left else net.dots[one].left + net.dots[two].right
            least = max(between, right_of[root[one]].get(root[two], 0.0))
            right_of[root[one]][root[two]] = left_of[root[two]][root[one]] = least
    names = list(right_of)
    number_of = {name: number for number, name in enumerate(names)}
    order = [
        names[number]
        for number in _sorted_down(
            [[number_of[other] for other in right_of[name]] for name in names],
            [[number_of[other] for other in left_of[name]] for name in names],
        )
    ]
    x: dict[int, float] = {}
    for name in order:
        x[name] = max((x[other] + least for other, least in left_of[name].items()), default=0.0)
    for name in reversed(order):
        x[name] = max(x[name], min((x[other] - least for other, least in right_of[name].items()), default=x[name]))
    return [x[name] for name in root]


# --- heights and ways -------------------------------------------------------------------------


def _finished(net: _Net) -> Layout:
    low, high = _span(net, [dot.x for dot in net.dots])
    for dot in net.dots:
        dot.x -= low
    tops = _tops(net)
    heights = [_height(net, layer) for layer in net.layers]
    corners = [
        (dot.x - block.width / 2, tops[dot.level] + (heights[dot.level] - block.height) / 2)
        for block, dot in zip(net.blocks, net.dots, strict=False)
    ]
    outs, ins = _ports(net, corners, above=False), _ports(net, corners, above=True)
    routes = [_route(net, link, tops, heights, corners, outs, ins) for link in range(len(net.links))]
    return Layout(high - low, tops[-1] + heights[-1], corners, routes)


def _height(net: _Net, layer: Sequence[int]) -> float:
    return max((net.dots[number].height for number in layer), default=0.0)


def _tops(net: _Net) -> list[float]:
    tops = [0.0]
    for layer in net.layers[:-1]:
        aside = max((abs(net.dots[n].x - net.dots[b].x) for n in layer for b in net.dots[n].below), default=0.0)
        tops.append(tops[-1] + _height(net, layer) + min(GAP + aside / 12, MOST_GAP))
    return tops


def _ports(net: _Net, corners: Sequence[Point], above: bool) -> dict[int, float]:
    """Where each link touches the block at its upper (lower) end: side by side, in the order in which they come."""
    touching: dict[int, list[tuple[float, int]]] = {}
    for link, chain in enumerate(net.chains):
        end, near = (chain[-1], chain[-2]) if above else (chain[0], chain[1])
        touching.setdefault(end, []).append((net.dots[near].x, link))
    ports: dict[int, float] = {}
    for number, near_by in touching.items():
        block = net.blocks[number]
        middle, reach = (block.enter if above else block.leave) or (block.width / 2, block.width / 2 - 8)
        near_by.sort()
        spread = _spread([x for x, _ in near_by], corners[number][0] + middle, reach)
        ports.update((link, x) for x, (_, link) in zip(spread, near_by, strict=True))
    return ports


def _spread(wanted: Sequence[float], middle: float, reach: float) -> list[float]:
    """As near to what is wanted as may be, in the same order, apart, and not further from the middle than `reach`."""
    between = len(wanted) - 1
    reach = min(reach, PORTS * between)
    apart = 2 * reach / between if between else 0.0
    least = min(apart, PORTS * 1.2)
    found: list[float] = []
    for number, x in enumerate(wanted):
        low = middle - reach if not found else found[-1] + least
        found.append(min(max(x, low), middle + reach - least * (between - number)))
    return found


def _route(
    net: _Net,
    link: int,
    tops: Sequence[float],
    heights: Sequence[float],
    corners: Sequence[Point],
    outs: dict[int, float],
    ins: dict[int, float],
) -> Route:
    upper, *knots, lower = net.chains[link]
    bottom = tops[net.dots[upper].level] + heights[net.dots[upper].level]
    points = [(outs[link], corners[upper][1] + net.blocks[upper].height), (outs[link], bottom)]
    label = None
    for knot in knots:
        dot = net.dots[knot]
        top, height = tops[dot.level], heights[dot.level]
        if not height:
            continue  # nothing is there that would be in the way
        points += [(dot.x, top), (dot.x, top + height)]
        if dot.height:
            label = (dot.x, top + height / 2)
    points += [(ins[link], tops[net.dots[lower].level]), (ins[link], corners[lower][1])]
    return Route(points if net.links[link].source == upper else points[::-1], label)
