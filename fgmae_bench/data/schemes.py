"""The label sources and schemes that a card names: known ones, and those that the card itself states as codes."""

from __future__ import annotations

from fgmae_bench.config.cards import Card, LabelFile
from fgmae_bench.data.labels import MOST_CLASSES, LabelMap, Scheme, Source, own_scheme
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.metrics.segmentation import IGNORE

# Colours of classes whose card gives none: Tol's bright and muted schemes (personal.sron.nl/~pault).
PALETTE = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#bbbbbb",
    "#332288",
    "#ddcc77",
    "#117733",
    "#88ccee",
    "#882255",
    "#44aa99",
    "#999933",
    "#cc6677",
)

# MODIS land cover MCD12Q1, type 1: IGBP legend, codes 1-17.
IGBP = Source(
    name="igbp",
    title="IGBP (MODIS)",
    codes={
        1: "Evergreen Needleleaf Forests",
        2: "Evergreen Broadleaf Forests",
        3: "Deciduous Needleleaf Forests",
        4: "Deciduous Broadleaf Forests",
        5: "Mixed Forests",
        6: "Closed (Dense) Shrublands",
        7: "Open (Sparse) Shrublands",
        8: "Woody Savannas",
        9: "Savannas",
        10: "Grasslands",
        11: "Permanent Wetlands",
        12: "Croplands",
        13: "Urban and Built-Up Lands",
        14: "Croplands/Natural Vegetation Mosaics",
        15: "Permanent Snow and Ice",
        16: "Barren",
        17: "Water Bodies",
    },
)
# The simplified legend of the Data Fusion Contest 2020; 0 is not used.
DFC = Source(
    name="dfc",
    title="DFC2020",
    codes={
        1: "Forest",
        2: "Shrubland",
        3: "Savanna",
        4: "Grassland",
        5: "Wetlands",
        6: "Croplands",
        7: "Urban/Built-up",
        8: "Snow/Ice",
        9: "Barren",
        10: "Water",
    },
)
# MCD12Q1, FAO land cover classification system: LCCS1, LCCS2, LCCS3. No scheme is defined for them.
LCCS_COVER = Source(
    name="lccs_cover",
    title="LCCS land cover (MODIS)",
    codes={
        1: "Barren",
        2: "Permanent Snow and Ice",
        3: "Water Bodies",
        11: "Evergreen Needleleaf Forests",
        12: "Evergreen Broadleaf Forests",
        13: "Deciduous Needleleaf Forests",
        14: "Deciduous Broadleaf Forests",
        15: "Mixed Broadleaf/Needleleaf Forests",
        16: "Mixed Broadleaf Evergreen/Deciduous Forests",
        21: "Open Forests",
        22: "Sparse Forests",
        31: "Dense Herbaceous",
        32: "Sparse Herbaceous",
        41: "Dense Shrublands",
        42: "Shrubland/Grassland Mosaics",
        43: "Sparse Shrublands",
    },
)
LCCS_USE = Source(
    name="lccs_use",
    title="LCCS land use (MODIS)",
    codes={
        1: "Barren",
        2: "Permanent Snow and Ice",
        3: "Water Bodies",
        9: "Urban and Built-up Lands",
        10: "Dense Forests",
        20: "Open Forests",
        25: "Forest/Cropland Mosaics",
        30: "Natural Herbaceous",
        35: "Natural Herbaceous/Croplands Mosaics",
        36: "Herbaceous Croplands",
        40: "Shrublands",
    },
)
LCCS_HYDROLOGY = Source(
    name="lccs_hydrology",
    title="LCCS surface hydrology (MODIS)",
    codes={
        1: "Barren",
        2: "Permanent Snow and Ice",
        3: "Water Bodies",
        10: "Dense Forests",
        20: "Open Forests",
        27: "Woody Wetlands",
        30: "Grasslands",
        40: "Shrublands",
        50: "Herbaceous Wetlands",
        51: "Tundra",
    },
)
SOURCES = {source.name: source for source in (IGBP, LCCS_COVER, LCCS_USE, LCCS_HYDROLOGY, DFC)}

# IGBP code -> DFC code: the table of the contest's baseline (lukasliebel/dfc2020_baseline, DFC2020_CLASSES).
IGBP_TO_DFC = {
    1: 1,
    2: 1,
    3: 1,
    4: 1,
    5: 1,
    6: 2,
    7: 2,
    8: 3,
    9: 3,
    10: 4,
    11: 5,
    12: 6,
    13: 7,
    14: 6,
    15: 8,
    16: 9,
    17: 10,
}

DFC_COLOURS = dict(
    zip(
        DFC.codes.values(),
        (
            "#009900",
            "#c6b044",
            "#fbff13",
            "#b6ff05",
            "#27ff87",
            "#c24f44",
            "#a5a5a5",
            "#69fff8",
            "#f9ffa4",
            "#1c0dff",
        ),
        strict=True,
    )
)
IGBP_COLOURS = dict(
    zip(
        IGBP.codes,
        (
            "#05450a",
            "#086a10",
            "#54a708",
            "#78d203",
            "#009900",
            "#c6b044",
            "#dcd159",
            "#dade48",
            "#fbff13",
            "#b6ff05",
            "#27ff87",
            "#c24f44",
            "#a5a5a5",
            "#ff6d4c",
            "#69fff8",
            "#f9ffa4",
            "#1c0dff",
        ),
        strict=True,
    )
)


def _of_dfc(name: str, left_out: tuple[str, ...] = ()) -> Scheme:
    """DFC classes in their order without some, for DFC labels and, through the table of the baseline, for IGBP ones."""
    classes = tuple(label for label in DFC.codes.values() if label not in left_out)
    dfc = {code: classes.index(label) if label in classes else IGNORE for code, label in DFC.codes.items()}
    igbp = {code: dfc[simple] for code, simple in IGBP_TO_DFC.items()}
    return Scheme(
        name=name,
        classes=classes,
        colours=tuple(DFC_COLOURS[label] for label in classes),
        ids={"dfc": dfc, "igbp": igbp},
    )


SCHEMES = {
    "igbp17": own_scheme(IGBP, IGBP_COLOURS, "igbp17"),
    "dfc10": _of_dfc("dfc10"),
    "dfc10_no_savanna": _of_dfc("dfc10_no_savanna", ("Savanna",)),
    "dfc8": _of_dfc("dfc8", ("Savanna", "Snow/Ice")),
}


def label_map(source: str, scheme: str) -> LabelMap:
    """The map from a known source to a known scheme, by name. Raises BenchError on unknown names and pairs."""
    if source not in SOURCES:
        raise unknown("label source", source, SOURCES)
    if scheme not in SCHEMES:
        raise unknown("label scheme", scheme, SCHEMES)
    return LabelMap(SOURCES[source], SCHEMES[scheme])


def card_source(card: Card, name: str | None = None) -> Source:
    """The label source `name`, by default the card's usual one. Raises BenchError where the card lacks it."""
    name = name or card.label_source
    if name not in card.label_sources:
        raise unknown(f"label source of {card.title}", name, card.label_sources)
    stated = card.label_sources[name]
    if not stated.codes:
        if name not in SOURCES:
            raise unknown("label source", name, SOURCES)
        return SOURCES[name]
    return _own_source(card, name, stated)


def _own_source(card: Card, name: str, stated: LabelFile) -> Source:
    """The source that a card states as `codes` and `ignore`; codes from 1 to 254 without `ignore` are kept as such."""
    where = f"{card.path}: label_sources.{name}"
    try:
        codes = {int(code): title for code, title in stated.codes.items()}
    except ValueError as error:
        raise BenchError(f"{where}.codes are {', '.join(stated.codes)}", "give whole numbers") from error
    if len(codes) < len(stated.codes) or len(codes) > MOST_CLASSES:
        raise BenchError(f"{where}.codes name {len(stated.codes)} codes", f"give {MOST_CLASSES} different ones at most")
    if not all(value == int(value) and abs(value) < 2**53 for value in (*stated.ignore, *codes)):
        raise BenchError(f"{where}.ignore is {list(stated.ignore)}", "give whole numbers")
    title = f"{card.title} '{name}'"
    if min(codes) > 0 and max(codes) < IGNORE and not stated.ignore:
        return Source(name=name, title=title, codes=codes)
    ignored = {int(value) for value in stated.ignore} or ({0, IGNORE} - set(codes))
    both = sorted(ignored & set(codes))
    if both:
        raise BenchError(f"{where}: {both[0]} is a code and in ignore", "take it out of one of them")
    # files hold what they hold; codes as runs keep them are bytes: the same where they fit, else their order
    fits = min(codes) >= 0 and max(codes) < IGNORE
    number = {value: value if fits else place for place, value in enumerate(sorted(codes))}
    return Source(
        name=name,
        title=title,
        codes={number[value]: codes[value] for value in sorted(codes)},
        unlabelled=(IGNORE,),
        raw={**number, **dict.fromkeys(ignored, IGNORE)},
    )


def card_scheme(card: Card, name: str | None = None) -> Scheme:
    """The label scheme called `name`, by default the card's usual one; a scheme that is not known is that of the card's
    own codes.
    """
    name = name or card.label_scheme
    if name not in card.label_schemes:
        raise unknown(f"label scheme of {card.title}", name, card.label_schemes)
    if name in SCHEMES:
        return SCHEMES[name]
    own = next((source for source, stated in card.label_sources.items() if stated.codes), None)
    if own is None:
        raise unknown("label scheme", name, SCHEMES)
    if name in card.schemes:
        return _joined(card_scheme(card, card.label_scheme), card.schemes[name], name)
    source, given = card_source(card, own), card.label_sources[own].colours
    value_of = {code: value for value, code in (source.raw or {code: code for code in source.codes}).items()}
    colours = {code: given.get(str(value_of[code])) or PALETTE[n % len(PALETTE)] for n, code in enumerate(source.codes)}
    return own_scheme(source, colours, name)


def _joined(own: Scheme, joined: dict[str, tuple[str, ...]], name: str) -> Scheme:
    """A scheme whose classes join classes of another, in the colours of the last of each; the others are ignored."""
    number = {label: place for place, labels in enumerate(joined.values()) for label in labels}
    ids = {
        source: {code: IGNORE if id == IGNORE else number.get(own.classes[id], IGNORE) for code, id in held.items()}
        for source, held in own.ids.items()
    }
    colours = tuple(own.colours[own.classes.index(labels[-1])] for labels in joined.values())
    return Scheme(name=name, classes=tuple(joined), colours=colours, ids=ids)


def joined_schemes(card: Card, scored: Scheme) -> dict[str, dict[str, tuple[str, ...]]]:
    """The schemes of a card that join classes of the scheme which a run is scored by: it has their scores too."""
    return card.schemes if scored.name == card.label_scheme else {}


def card_map(card: Card, source: str | None = None, scheme: str | None = None) -> LabelMap:
    """The map from a source to a scheme of a card, by default the usual ones. Raises BenchError where there is none."""
    held, wanted = card_source(card, source), card_scheme(card, scheme)
    known = SOURCES.get(held.name)
    if wanted.name in SCHEMES and known is not None and dict(held.codes) != dict(known.codes):
        what = (
            f"{card.path}: label_sources.{held.name}.codes are not those of {known.title}, which {wanted.name} is for"
        )
        raise BenchError(what, "leave the codes out, or give source and scheme names of their own")
    return LabelMap(held, wanted)
