"""What a decoder is trained on: slices with their ground truth, features computed beforehand, epochs drawn by seed."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ...data.cases import Case, CaseStore, known_slices, labelled_slices
from ...data.labels import Matcher, drawn, has, listed
from ...data.slices import ACQUIRED, Slices, SliceSpec
from ...data.volume import Volume
from ...errors import BadDataset, BadInput, BadLabels
from ...files import scratch_folder
from ...model.postprocess import largest_share
from ...model.types import Features
from ..events import Event, Log, Progress
from ..options import TrainOptions
from ..runtime.features import to_features
from ..runtime.session import Session
from .augmentation import AugmentedStream, versions_of
from .team import ALONE, Team

WHOLE = 0.98  # of a label's voxels in its largest part: it is one part, but for what a hand leaves behind
VISITS = 24  # slices of an epoch of corrections, at least: fewer are shown again


@dataclass(frozen=True)
class Example:
    """One slice to learn from: for each of its augmentations, where its features lie and its target (256, 256),
    memberships of the labels (``data/labels.py``).

    The first is the slice as it is. An augmentation that no epoch draws has no features, and None for a key.
    """

    case: str
    keys: tuple[str | None, ...]
    targets: tuple[np.ndarray, ...]

    @property
    def empty(self) -> bool:
        return not drawn(self.targets[0]).any()


@dataclass(frozen=True)
class Batch:
    """Features on the device, targets (B, 256, 256) memberships, and the cache keys that name the B slices.

    The features are those of this process's share (``Team.share``), the first of which is number ``first`` of the B.
    """

    features: Features
    targets: np.ndarray
    keys: tuple[str, ...] = ()
    first: int = 0


def common_spec(volumes: Sequence[Volume], options: TrainOptions) -> SliceSpec:
    """One way to cut and normalise all volumes; percentiles when they do not agree (CT mixed with MR)."""
    specs = [
        SliceSpec.for_volume(volume, axis=options.slice_axis, intensity=options.intensity, window=options.window)
        for volume in volumes
    ]
    common = specs[0].to_dict()
    if any(spec.axis != specs[0].axis for spec in specs):
        common["axis"] = ACQUIRED  # of volumes without a thick axis these are the axial slices
    if any(replace(spec, axis=specs[0].axis) != specs[0] for spec in specs):
        common |= {"intensity": "percentile", "window": None}
    return SliceSpec.from_dict(common)


@dataclass(frozen=True)
class Share:
    """A case of a training set, for another process that shares the cache: what its features depend on."""

    case: Case
    matcher: Matcher
    spec: SliceSpec
    options: TrainOptions
    slices: list[int]
    visited: set[tuple[int, int]]

    def encode(self, session: Session) -> None:
        """Computes what the cache lacks."""
        session.begin(self.options.backbone)
        with scratch_folder("encoding") as scratch:
            data = TrainingSet([self.case], CaseStore(self.matcher, scratch), self.spec, self.options, session)
            data.slices, data.visited = [(0, index) for index in self.slices], self.visited
            for _ in data.prepare():
                pass


class TrainingSet:
    """Slices of the training cases.

    Arguments:
      cases: training cases. store: reads them.
      spec: how volumes are cut and normalised.
      session: encodes what its cache lacks; it must have a cache.
      excluded: per case name, positions along the slice axis that are held out for validation.
      replayed: cases of earlier data, mixed in so that they make up ``options.replay_share`` of an epoch.
      team: shares the encoding, and the slices of each batch.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        store: CaseStore,
        spec: SliceSpec,
        options: TrainOptions,
        session: Session,
        excluded: dict[str, set[int]] | None = None,
        replayed: Sequence[Case] = (),
        team: Team = ALONE,
    ) -> None:
        assert session.cache is not None
        self.team = team
        self.cases, self.store, self.spec, self.options = [*cases, *replayed], store, spec, options
        self.own = len(cases)  # those that are not replayed come first
        self.session, self.cache = session, session.cache
        self.excluded = excluded or {}
        self.examples: list[Example] = []
        self.slices: list[tuple[int, int]] = []  # what can be learnt from: number of the case, of the slice in it
        self.empty: list[bool] = []  # for each of these, whether it is background only
        self.visited: set[tuple[int, int]] = set()  # (example, augmentation) that some epoch draws
        self.connected = True  # whether each label is one part in every case, so that a second one is a mistake
        self.histogram: tuple[float, ...] | None = None  # of the cases that are not replayed, ``SliceSpec.histogram``
        self._missed = False
        self._open: tuple[int, Slices, np.ndarray] | None = None  # the case opened last, by its number

    def survey(self) -> Iterator[Event]:
        """Finds what there is to learn from, before hours are spent on features.

        Raises:
          BadLabels, BadDataset: when there is not enough; the text says what to do.
        """
        self.slices, self.empty = [], []
        found, greys = 0, []
        for number, case in enumerate(self.cases):
            slices, members = self._opened(number)
            yield from self._cut(slices)
            if number < self.own and self.spec.intensity == "percentile":
                greys.append(slices.histogram())
            found |= int(np.bitwise_or.reduce(members, axis=None))
            self.connected = self.connected and self._is_connected(slices, members)
            for index in self._chosen(case, slices, members):
                self.slices.append((number, index))
                self.empty.append(not drawn(slices.label_map(members, index)).any())
            yield Progress("Reading the cases", number + 1, len(self.cases))
        if greys:
            self.histogram = tuple(np.mean(greys, axis=0).round(2).tolist())
        for remark in self.store.remarks():
            yield Log(remark, "warning")
        self._check([name for number, name in enumerate(self.store.matcher.labels) if found >> number & 1])
        self.visited = self._visits()

    def _cut(self, slices: Slices) -> Iterator[Event]:
        """Refuses a plane that nobody chose and that cuts across the acquired one; says so of a chosen one."""
        try:
            slices.check_cut()
        except BadInput as error:
            if self.options.slice_axis == "auto":
                raise
            yield Log(error.what, "warning")

    def prepare(self) -> Iterator[Event]:
        """Computes the features that the cache lacks, of what the epochs will draw, saying how far it is."""
        if not self.slices:
            yield from self.survey()
        made = []
        for number in range(len(self.cases)):
            made.append((yield from self._encoded(number)))
        self.examples = []
        for of_case in made:  # the cache is where a team's processes meet; what is there, they tell each other
            whole = {i: each for rank in range(self.team.size) for i, each in self.team.shared(of_case, rank).items()}
            self.examples += [whole[i] for i in sorted(whole)]
        self._open = None

    def shares(self) -> list[Share]:
        """The cases, each for a process of its own."""
        shares = []
        for number, case in enumerate(self.cases):
            own = {i: place for place, i in enumerate(i for i, (owner, _) in enumerate(self.slices) if owner == number)}
            visited = {(own[i], version) for i, version in self.visited if i in own}
            slices = [self.slices[i][1] for i in own]
            shares.append(Share(case, self.store.matcher, self.spec, self.options, slices, visited))
        return shares

    def _encoded(self, number: int) -> Generator[Event, None, dict[int, Example]]:
        """This process's share of the slices of a case, with features in the cache where an epoch draws them."""
        slices, members = self._opened(number)
        every = [
            i for i, (case, _) in enumerate(self.slices) if case == number and i % self.team.size == self.team.rank
        ]
        made = [versions_of(slices, members, self.slices[i][1], self.options) for i in every]
        drawn = [(i, each) for i, versions in zip(every, made, strict=True) for each in versions]
        drawn = [(i, each) for i, each in drawn if (i, each.number) in self.visited]
        stream = AugmentedStream(slices, self.session, [each for _, each in drawn])
        keys: dict[tuple[int, int], str] = {}
        text = f"Features of {self.cases[number].name} ({number + 1} of {len(self.cases)})"
        for done, (position, key) in enumerate(stream.fill(range(len(drawn))), 1):
            i, each = drawn[position]
            keys[i, each.number] = key
            yield Progress(text, done, len(drawn))
        examples = {}
        for i, versions in zip(every, made, strict=True):
            named = tuple(keys.get((i, each.number)) for each in versions)
            examples[i] = Example(self.cases[number].name, named, tuple(each.target for each in versions))
        return examples

    def _opened(self, number: int) -> tuple[Slices, np.ndarray]:
        """The slices of a case and its memberships; the last one asked for is kept."""
        if self._open is None or self._open[0] != number:
            volume, members = self.store.load(self.cases[number])
            self._open = number, Slices(volume, self.spec), members
        return self._open[1:]

    def _visits(self) -> set[tuple[int, int]]:
        """Everything that an epoch draws: of many background slices most are never seen, let alone in every version."""
        visited: set[tuple[int, int]] = set()
        for number in range(1, self.options.epochs + 1):
            visited.update(visit for batch in self.epoch(number) for visit in batch)
            if len(visited) == len(self.slices) * (self.options.views + self.options.styles):
                break
        return visited

    def _chosen(self, case: Case, slices: Slices, members: np.ndarray) -> list[int]:
        """Slice numbers that carry ground truth: the drawn ones of a partly labelled case, else all but the ignored."""
        known = set(known_slices(members, slices.axis))
        every = [i for i in range(len(slices)) if slices.index(i) in known]
        if case.slices == "labelled" or self.options.slices == "labelled" or self.options.empty_fraction == 0:
            labelled = set(labelled_slices(members, slices.axis))
            every = [i for i in every if slices.index(i) in labelled]
        held_out = self.excluded.get(case.name, set())
        return [i for i in every if slices.index(i) not in held_out]

    def _is_connected(self, slices: Slices, members: np.ndarray) -> bool:
        """Whether nearly all of each label is one part; drawn slices are taken for neighbours."""
        stack = np.moveaxis(members, slices.axis, 0)
        masks = (has(stack, number) for number in range(len(self.store.matcher.labels)))
        return all(largest_share(mask[mask.any((1, 2))]) >= WHOLE for mask in masks)

    def _check(self, found: list[str]) -> None:
        correcting = self.options.profile == "corrections"  # that nothing is there is a correction too
        absent = [name for name in self.store.matcher.labels if name not in found]
        if absent and not correcting:
            cases = self.cases[0].name if len(self.cases) == 1 else f"any of the {len(self.cases)} training cases"
            raise BadLabels(
                f"The label {listed(absent)} does not occur in the label map of {cases}.",
                f"Labels that do occur: {listed(found)}. Choose among these, or correct the labels in dataset.json.",
            )
        if not self.slices:
            raise BadDataset("There is no slice to train on.", "Add cases with labels.")
        if all(self.empty) and not correcting:
            raise BadLabels(
                f"Nothing of the labels is left in slices of {self.spec.size} x {self.spec.size} pixels.",
                "Draw more, or larger regions: single voxels vanish when a slice is made smaller.",
            )

    # ---- epochs ----

    def epoch(self, number: int) -> list[list[tuple[int, int]]]:
        """Batches of (example, augmentation) of one epoch, a function of seed and epoch alone.

        Every slice with an organ is visited once, in an augmentation drawn at random; background slices are drawn so
        that they make up ``empty_fraction`` of the epoch (a decoder that hardly saw one paints on all of them). Of
        corrections each is visited, again and again where they are few.
        """
        rng = np.random.default_rng([self.options.seed, number])
        own = [i for i, (case, _) in enumerate(self.slices) if case < self.own]
        if self.options.profile == "corrections":
            chosen = np.resize(rng.permutation(own), max(len(own), VISITS)).tolist()
        else:
            chosen = [i for i in own if not self.empty[i]]
            chosen += self._background(own, len(chosen), rng)
        order = rng.permutation(chosen + self._replayed(len(chosen), rng)).tolist()
        versions = rng.integers(0, self.options.views + self.options.styles, len(order)).tolist()
        visits = list(zip(order, versions, strict=True))
        size = self.options.batch_size
        return [visits[i : i + size] for i in range(0, len(visits), size)]

    def _background(self, among: Sequence[int], full: int, rng: np.random.Generator) -> list[int]:
        """The background slices that go with ``full`` others, repeated where there are too few."""
        share = self.options.empty_fraction
        empty = [i for i in among if self.empty[i]]
        wanted = round(full * share / (1 - share)) if empty else 0
        return [int(i) for i in np.resize(rng.permutation(empty), wanted)]

    def _replayed(self, own: int, rng: np.random.Generator) -> list[int]:
        """What is mixed in with ``own`` visits, background slices in their usual share."""
        old = [i for i, (case, _) in enumerate(self.slices) if case >= self.own]
        if not old:
            return []
        share = self.options.replay_share
        wanted = round(own * share / (1 - share))
        background = self._background(old, round(wanted * (1 - self.options.empty_fraction)), rng)
        full = [i for i in old if not self.empty[i]] or old
        return [*np.resize(rng.permutation(full), wanted - len(background)).tolist(), *background]

    def batches(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch; the next one is read while this one is learnt from."""
        groups = self.epoch(number)
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(self._load, groups[0]) if groups else None
            for following in [*groups[1:], None]:
                assert ahead is not None
                batch = ahead.result()
                ahead = reader.submit(self._load, following) if following else None
                yield batch

    def _load(self, visits: list[tuple[int, int]]) -> Batch:
        device = self.session.device  # computing features again can run out of memory and move it
        parts: list[Features] = []
        keys = [self.examples[number].keys[version] or "" for number, version in visits]
        own = self.team.share(len(visits))
        for place in range(*own.indices(len(visits))) or [0]:  # of a batch too small for all, one that is not asked for
            number, version = visits[place]
            key = keys[place]
            stored = self.cache.get(key) if key else None
            if stored is None:
                keys[place], features = self._again(number, version)
            else:
                features = to_features(stored, device)
            parts.append(features.to(device=device))
        targets = np.stack([self.examples[number].targets[version] for number, version in visits])
        return Batch(Features.cat(parts), targets, tuple(keys), own.start)

    def _again(self, number: int, version: int) -> tuple[str, Features]:
        """Key and features of an augmented slice that another process, or a full disk, took from the cache."""
        if not self._missed:
            self._missed = True
            self.session.log(f"Features are missing from {self.cache.root}: they are computed again, which takes time.")
        example = self.examples[number]
        case, index = self.slices[number]
        slices, members = self._opened(case)
        stream = AugmentedStream(slices, self.session, [versions_of(slices, members, index, self.options)[version]])
        ((_, features),) = stream.iterate([0])
        keys = (*example.keys[:version], stream.keys[0], *example.keys[version + 1 :])
        self.examples[number] = replace(example, keys=keys)
        return stream.keys[0], features
