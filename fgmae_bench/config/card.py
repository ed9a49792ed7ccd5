"""What a dataset card says, as data: signal, splits, groups, counts, label sources, origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

WHEEL_CARDS = Path(__file__).resolve().parents[1] / "_cards"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What the files hold: the `bands` that are read, in this order, `units`, `calibration` (a statement, pixels cannot
    show it).

    Everything becomes dB once, on reading: number in `units` = stored number x `scale` + `offset`.
    """

    bands: tuple[str, ...]  # of POLARISATIONS
    units: Literal["dB", "linear_power", "amplitude", "grey"]  # grey: image values, whose scale to dB nobody stated
    calibration: str
    size: tuple[int, ...]  # (height, width) in pixels
    dtype: str
    nodata: tuple[float, ...] = ()  # stored values that mean "no measurement", besides NaN and infinities
    fill: tuple[float | tuple[float, ...], ...] = ()  # more of them, or ranges [lowest, highest] of stored values
    index: tuple[int, ...] = ()  # which bands of the file, from 1, `bands` are; without it the file holds no other
    described: tuple[str, ...] = ()  # the same by the descriptions of the bands in the file
    scale: float = 1.0
    offset: float = 0.0
    floor: float = -40.0  # dB of isolated pixels without positive power, which noise subtraction leaves over water
    zeros: Literal["auto", "missing", "measured"] = "auto"  # runs of exact 0 dB; auto: measured where data is clipped
    input_resize: int | None = (
        None  # side that images are brought to first (cubic, in the card's units), as the published data was
    )
    max_invalid_fraction: float = 0.5  # an image with a larger share of invalid pixels is left out and counted
    folder: str = ""  # layouts with label maps: the kind of folder that the images are in
    looks: float | None = None  # equivalent number of looks, where it is known to differ from a GRDH product's
    filtered: bool = False  # despeckled, composite or averaged in dB: speckle is not that of one acquisition

    @property
    def converted(self) -> bool:
        """Whether stored numbers are other than dB."""
        return self.units != "dB" or (self.scale, self.offset) != (1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Split:
    """How samples are divided. `train` and `val` are fractions, the rest is test; `leaky` where neighbours are torn
    apart.
    """

    kind: Literal["stratified", "spatial", "lists", "random", "tile", "groups", "leave_out", "everything", "stated"]
    train: float | None = None
    val: float = 0.0
    leaky: bool = False
    block_km: float | None = None  # spatial: side of a block
    buffer_m: float | None = None  # spatial: chips nearer than this to another split's, from edge to edge, are left out
    block_patches: int | None = None  # tile: side of the blocks that tiles are cut into; None keeps tiles whole
    buffer_patches: int | None = None  # tile: patches left out between two parts
    files: dict[str, str] = field(default_factory=dict)  # lists: split name to file name
    header: str = ""  # lists: how a first line begins that names columns
    suffix: str = ""  # lists: what stands between the name of a sample and the ending of its file
    absent_tolerance: float = 0.0  # lists: share of a list's names that the data may lack
    counts: dict[str, int] = field(
        default_factory=dict
    )  # lists: published sizes of train, val, test, and what is excluded
    groups: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # groups: patterns such as `ROIs1158_spring/s1_63` by part
    by: Groups | None = None  # leave_out: what is left out one at a time, such as countries; by default the groups
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Which samples belong together, in one of three ways: by name, by a column of a table, or by blocks of ground."""

    pattern: str = ""  # of the last part of a sample's id, the whole id where it holds a /: `{scene}_#_#`
    file: str = ""  # a CSV with the data or next to the card, whose first column names samples
    column: str = ""  # of `file`
    block_km: float | None = None  # side of the blocks; the samples are georeferenced files
    unit: str = ""  # what a group is, for tables; by default the name in braces, the column, or the block


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many samples the complete dataset holds; data that contradicts it is refused."""

    total: int
    per_class: dict[str, int] = field(default_factory=dict)
    per_collection: dict[str, int] = field(default_factory=dict)  # of those parts of the dataset that are there at all


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """Where one source of label maps is: `band` (from 1) of the `bands` of the files in `folder`.

    `codes` and `colours`, by code, define a source that is the card's own; without them the source is a known one.
    """

    folder: str
    bands: int = 1
    band: int = 1
    codes: dict[str, str] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    masks: str = ""  # names of its files, where they are others than layout.masks says: `*_JRCWaterHand.tif`
    rgb: bool = False  # three bands of 8 bits are one value, red x 65536 + green x 256 + blue
    strays: float = 0.0  # share of an image's pixels of none of the codes that is ignored; more is refused
    water: tuple[int, ...] = ()  # codes of open water: darker than the rest over many images, else they are other codes
    ignore: tuple[float, ...] = ()  # values that mean "no label"; without any 255, and 0 where 0 is not a class


@dataclass(frozen=True, kw_only=True)
class Before:
    """Where the image of the same place before the event is, in paired folders: a folder, names, or both.

    In folders of one sample each, `earlier` names one before that, which is not read; its date must not be later.
    """

    folder: str = ""
    images: str = ""  # names of its files, by default those of the images
    earlier: str = ""


@dataclass(frozen=True, kw_only=True)
class PermanentWater:
    """Which pixels are water at all times: `codes` of a label source, which flood maps are also scored without."""

    source: str
    codes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """How the files of a layout are named, and which columns of a table say what.

    `images` and `masks` are file names with one `*`, which must match the same text in both, such as `*_S1Hand.tif`
    and `*_LabelHand.tif`; `{band}` in `images` stands for a file of its own for each band, such as `*_{band}.tif`.
    Of whole images and masks two `*` may be named, such as `*_SAR_*.tif`.
    """

    images: str = ""
    masks: str = ""
    valid: str = ""  # of a folder a sample: the file that is 1 where the images are measurements
    levels: int = 1  # of a folder a sample: how many folders, from the last, make the sample's name
    table: str = ""  # file of the samples: .csv, .parquet or .geoparquet, in the data's folder
    tables: dict[str, str] = field(default_factory=dict)  # one such file a part, in place of `table` and `split`
    path: str = "file"  # column that names the image
    label: str = ""  # column of classes; without it one column of 0 and 1 a class
    separator: str = ""  # multi-label: what stands between the classes in `label`
    target: str = ""  # regression: column of numbers
    decimal: Literal[".", ","] = "."  # of the numbers in the table
    group: str = ""  # column of the scene or site
    split: str = ""  # column of train, val, test
    place: tuple[str, ...] = ()  # columns of longitude and latitude, or one of geometries (GeoParquet)
    store: str = ""  # layout zarr: the store in the data's folder, by default that folder itself
    variable: str = "{band}"  # layout zarr: variable of the images, or of each band


@dataclass(frozen=True, kw_only=True)
class Texts:
    """How classes are put into words for text encoders; what is left out follows from the names and the encoder."""

    candidates: dict[str, tuple[str, ...]] = field(default_factory=dict)  # class -> texts that mean it
    templates: tuple[str, ...] = ()  # sentences with `{}` where a candidate goes; their embeddings are averaged


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a regression predicts; `bins` are bounds of target values within which errors are also given."""

    name: str
    unit: str = ""
    bins: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the data comes from and how to get it."""

    url: str
    licence: str
    citation: str = ""
    get: str = ""  # the command that gets it


@dataclass(frozen=True, kw_only=True)
class Download:
    """What holds the data: an archive on the hub (`repo`, `file`), one at an address (`url`), or the files below an
    address that the lists of the splits name (`url`, `each`).

    `sha256` of an archive may be empty: a hub states its own, else what comes first is pinned.
    """

    repo: str = ""
    file: str = ""
    revision: str = "main"
    sha256: str = ""
    md5: str = ""  # as its publishers or readers state it: checked besides
    repo_type: Literal["model", "dataset"] = "dataset"
    url: str = ""
    size: int = 0  # of the archive in bytes, where it is stated
    each: tuple[str, ...] = ()  # names of the files of a sample; {id} is its name in the lists without their suffix
    lists: tuple[ListAddress, ...] = ()  # lists that are not in the archive; they are put next to the data


@dataclass(frozen=True, kw_only=True)
class ListAddress:
    """Where a published list is, and its MD5."""

    url: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """One dataset. `path` is the file it was read from; the folder next to it named `data` is the default data path."""

    name: str
    title: str
    version: int
    task: Literal["single_label", "multi_label", "segmentation", "regression"]
    layout: str
    signal: Signal
    splits: dict[str, Split]
    default_split: str
    recommended_split: str
    origin: Origin
    label_scheme: str = ""  # by default the card's name
    classes: tuple[str, ...] = ()  # none in regression; of segmentation, by default the codes of its label source
    arrangement: Arrangement = field(default_factory=Arrangement)  # of [layout] where that is a table
    target: Target | None = None  # regression
    recipes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # module -> recipe name -> flags
    counts: Counts | None = None
    download: Download | None = None
    groups: Groups | None = None
    strata: dict[str, Groups] = field(default_factory=dict)  # season, orbit: what scores of stress cards are given by
    label_sources: dict[str, LabelFile] = field(default_factory=dict)  # segmentation: label maps that the data holds
    label_schemes: tuple[str, ...] = ()  # segmentation: schemes that make sense here; `label_scheme` is the usual one
    schemes: dict[str, dict[str, tuple[str, ...]]] = field(
        default_factory=dict
    )  # segmentation: further schemes by name: class -> classes of the card that it joins; classes of none are ignored
    label_source: str = ""  # segmentation: the usual source
    before: Before | None = None  # of two dates: the earlier one
    permanent_water: PermanentWater | None = None  # segmentation: scores are also given without these pixels
    broken: tuple[str, ...] = ()  # samples that are known to be damaged: left out and counted
    synthetic: str | None = None  # None for genuine data, else what made it
    texts: Texts | None = None  # of its classes, for text encoders
    notes: tuple[str, ...] = ()
    traps: dict[str, str] = field(default_factory=dict)  # fault that an audit finds -> what is known of copies with it
    path: Path = field(default=Path(), metadata={"derived": True})

    def usual_split(self, recipe: str) -> str:
        """The split that runs of a recipe take where none is named."""
        return self.recommended_split if recipe == "corrected" else self.default_split

    @property
    def per_pixel(self) -> bool:
        """Whether every pixel has a label or a target of its own."""
        return self.task == "segmentation" or (self.task == "regression" and bool(self.label_sources))

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a model has an output for: the classes, or the target of a regression."""
        return (self.target.name,) if self.target else self.classes

    @property
    def data_path(self) -> Path:
        """Default place of the data: `data` next to the card, or below ./datasets when the card came with the wheel."""
        if self.path.is_relative_to(WHEEL_CARDS):
            return Path("datasets") / self.name / "data"
        beside = self.path.parent / "data"
        return beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside
