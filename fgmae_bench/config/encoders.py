"""Encoders that read Sentinel-1, one entry each: who carries them, what they take besides pixels, how they pool.

Facts alone, no torch. Files, licences and input contracts of the weights are in `checkpoints/manifest.toml`, under the
names that `weights` and `model` give here. A package adds its own under the entry-point group `fgmae_bench.encoders`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from fgmae_bench.config.plugins import entry_points, loaded
from fgmae_bench.errors import BenchError

GROUP = "fgmae_bench.encoders"
# Extra inputs that a run may ask for with --inputs, and what each is.
INPUTS = {
    "month": "month of acquisition, from the product's name",
    "day_of_year": "day of the year of acquisition, from the product's name",
    "location": "longitude and latitude of the chip's centre, from its georeference",
}


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One encoder. `model` and `weights` are what `--model` and `--weights` mean by its name.

    `code` is `module:function` of what builds it under our interface, "" for a timm model. `patches` are the sides in
    pixels that it takes, the default first; `params` is the number of parameters of what runs. `inputs` says what the
    encoder gets where an extra input is not given, `fixed` what it gets with every Sentinel-1 image. A row of an
    encoder with a `statement` must carry it.
    """

    model: str
    weights: str
    carrier: str  # the library that has the architecture
    dim: int
    params: int
    patches: tuple[int, ...]
    maps: str
    pooling: str  # of this suite
    pooling_of_origin: str
    code: str = ""
    extra: str = ""  # of pip, that brings the carrier
    variant: str = ""  # what the code is asked to build
    inputs: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    statement: str = ""
    one_band: str = ""  # the polarisation that it reads, where it reads one
    only_size: int = 0  # the one input size in pixels that it takes; 0 where any will do that patches divide
    most_patches: int = 0  # of an image; 0 for no bound

    @property
    def patch(self) -> int:
        """The default side of a patch in pixels; 1 where any input size will do."""
        return self.patches[0]


FLEXIBLE = (4, 1, 2, 3, 5, 6, 7, 8)
TOKENS = "mean of tokens"
VIT_MAPS, PYRAMID = "4 blocks", "4 levels, strides 4 to 32"


def _galileo(size: str, dim: int, params: int) -> Encoder:
    return Encoder(
        model=f"galileo-{size}",
        weights="galileo",
        carrier="rslearn",
        extra="rslearn",
        code="fgmae_bench.models.encoders.galileo:make",
        variant=size,
        dim=dim,
        params=params,
        patches=FLEXIBLE,
        maps="one map",
        pooling=TOKENS,
        pooling_of_origin="mean of unmasked tokens (average_tokens)",
        inputs={"month": "month 5 of 0 to 11 is assumed", "location": "masked"},
        fixed={"resolution": "10 m", "other sensors": "masked"},
    )


def _olmoearth(version: str, size: str, dim: int, params: int) -> Encoder:
    return Encoder(
        model=f"olmoearth-{version}-{size}",
        weights="olmoearth",
        carrier="olmoearth-pretrain-minimal",
        extra="olmoearth",
        code="fgmae_bench.models.encoders.olmoearth:make",
        variant=f"{version} {size}",
        dim=dim,
        params=params,
        patches=FLEXIBLE,
        maps="one map",
        pooling=TOKENS,
        pooling_of_origin="mean of unmasked tokens",
        inputs={"month": "month 5 of 0 to 11 is assumed"},
        fixed={"resolution": "10 m", "day": "15", "year": "2020", "other sensors": "absent"},
        statement="OlmoEarth Artifact License: no military, surveillance or extractive use",
    )


def _torchgeo(model: str, weights: str, dim: int, params: int, patch: int, origin: str, **more: object) -> Encoder:
    return Encoder(
        model=model,
        weights=weights,
        carrier="torchgeo",
        extra="torchgeo",
        code="fgmae_bench.models.torchgeo_models:make_encoder",
        dim=dim,
        params=params,
        patches=(patch,),
        maps="one map",
        pooling=str(more.pop("pooling", "its own")),
        pooling_of_origin=origin,
        **more,  # type: ignore[arg-type]
    )


def _timm(
    model: str, weights: str, dim: int, params: int, patch: int, pooling: str, origin: str = "", statement: str = ""
) -> Encoder:
    return Encoder(
        model=model,
        weights=weights,
        carrier="timm",
        dim=dim,
        params=params,
        patches=(patch,),
        maps=VIT_MAPS if patch > 1 else PYRAMID,
        pooling=pooling,
        pooling_of_origin=origin or pooling,
        statement=statement,
    )


def _terratorch(
    model: str, weights: str, name: str, dim: int, patch: int, fixed: dict[str, str], params: int
) -> Encoder:
    return Encoder(
        model=model,
        weights=weights,
        carrier="terratorch",
        extra="terratorch",
        code="fgmae_bench.models.encoders.terratorch_models:make",
        variant=name,
        dim=dim,
        params=params,
        patches=(patch,),
        maps="one map",
        pooling=TOKENS,
        pooling_of_origin=TOKENS,
        fixed=fixed,
    )


def _grey(
    model: str, weights: str, variant: str, dim: int, params: int, patch: int, *, only_size: int = 0, **more: str
) -> Encoder:
    """An encoder of one polarisation: a timm model, where no `code` is given."""
    return Encoder(
        model=model,
        weights=weights,
        carrier=more.get("carrier", "timm"),
        code=more.get("code", "fgmae_bench.models.encoders.one_band:make"),
        variant=variant,
        dim=dim,
        params=params,
        patches=(patch,),
        maps="one map",
        pooling=more["pooling"],
        pooling_of_origin=more.get("origin", more["pooling"]),
        one_band="VV",
        only_size=only_size,
        statement=f"one polarisation alone, VV, as grey; {_ASSUMED}",
    )


_BEN = "its labels are BigEarthNet's training labels: supervised in-domain there"
_DOFA = {"wavelength": "3.75 for VV and VH, as in PANGAEA and Copernicus-Bench, whose published rows these are"}
_C_BAND = {"wavelength": "5.405 micrometres for VV and VH, as in DOFA's README"}
_ALIKE = "VV and VH have one wavelength: it cannot tell them apart"
_OPTICAL = "control of optical images: timm's own weights, two kernels of three; the input of radar is a choice"
_ASSUMED = "the input is assumed: its publishers state none for Sentinel-1"

ENCODERS: dict[str, Encoder] = {
    # plain two-band dB, exactly reproducible
    "reben-resnet50": _timm("resnet50", "reben", 2048, 23_504_896, 1, "mean", statement=_BEN),
    "reben-convnextv2-base": _timm("convnextv2_base", "reben", 1024, 87_690_752, 1, "mean", statement=_BEN),
    "reben-vit-b8": _timm("vit_base_patch8_224", "reben", 768, 85_329_408, 8, "cls", statement=_BEN),
    "galileo-nano": _galileo("nano", 128, 1_037_856),
    "galileo-tiny": _galileo("tiny", 192, 5_705_520),
    "galileo-base": _galileo("base", 768, 86_523_072),
    "presto": Encoder(
        model="presto",
        weights="presto",
        carrier="rslearn",
        extra="rslearn",
        code="fgmae_bench.models.encoders.presto:make",
        dim=128,
        params=404_160,
        patches=FLEXIBLE,
        maps="one vector a cell of patch x patch pixels, of their mean dB",
        pooling="mean of cells",
        pooling_of_origin="mean over the tokens of a pixel's series",
        inputs={"month": "month 5 of 0 to 11 is assumed", "location": "latitude 0, longitude 0 is assumed"},
        fixed={"other sensors": "masked"},
    ),
    **{
        f"olmoearth-{version}-{size}": _olmoearth(version, size, dim, params)
        for version, size, dim, params in (
            ("v1", "nano", 128, 1_361_024),
            ("v1", "tiny", 192, 6_202_560),
            ("v1", "base", 768, 88_953_600),
            ("v1", "large", 1024, 307_770_368),
            ("v1.1", "nano", 128, 1_697_328),
            ("v1.1", "tiny", 192, 12_461_296),
            ("v1.1", "base", 768, 113_973_952),
            ("v1.2", "nano", 128, 1_698_096),
            ("v1.2", "tiny", 192, 12_464_752),
            ("v1.2", "small", 384, 35_615_200),
            ("v1.2", "base", 768, 113_987_776),
            ("v1.3", "base", 768, 128_266_048),
        )
    },
    # with a statement
    "croma_base": _torchgeo("croma_base", "croma", 768, 47_337_984, 8, "GAP_FFN of the mean token"),
    "croma_large": _torchgeo("croma_large", "croma", 1024, 159_647_744, 8, "GAP_FFN of the mean token"),
    **{
        name: _torchgeo(name, "dofa", dim, params, 16, "fc_norm of the mean token", fixed=_DOFA, statement=_ALIKE)
        for name, dim, params in (
            ("dofa_base_patch16_224", 768, 111_312_128),
            ("dofa_large_patch16_224", 1024, 337_105_408),
        )
    },
    "dofa_base_patch16_224_c_band": _torchgeo(
        "dofa_base_patch16_224_c_band",
        "dofa-readme",
        768,
        111_312_128,
        16,
        "fc_norm of the mean token",
        variant="c-band",
        fixed=_C_BAND,
        statement=_ALIKE,
    ),
    **{
        f"dofa-v2-{size}": Encoder(
            model=f"dofa-v2-{size}",
            weights="dofa-v2",
            carrier="torchgeo and timm",
            extra="torchgeo",
            code="fgmae_bench.models.encoders.dofa_v2:make",
            variant=size,
            dim=dim,
            params=params,
            patches=(14,),
            only_size=224,
            maps="one map",
            pooling="mean of normalised tokens",
            pooling_of_origin="none: maps of 4 blocks",
            fixed=_DOFA,
            statement=_ALIKE,
        )
        for size, dim, params in (("base", 768, 105_433_856), ("large", 1024, 329_292_288))
    },
    **{
        f"terrafm-{size}": Encoder(
            model=f"terrafm-{size}",
            weights="terrafm",
            carrier="this suite, with timm's blocks",
            code="fgmae_bench.models.encoders.terrafm:make",
            variant=size,
            dim=dim,
            params=params,
            patches=(16,),
            maps="one map",
            pooling="CLS",
            pooling_of_origin="CLS",
            statement=f"{_ASSUMED}: z-scores by the data that is evaluated; its images were gamma0",
        )
        for size, dim, params in (("base", 768, 98_786_304), ("large", 1024, 326_123_520))
    },
    "copernicusfm_base": _torchgeo(
        "copernicusfm_base",
        "copernicus-fm",
        768,
        139_452_544,
        16,
        "fc_norm of the mean token",
        inputs={"location": "not known: the learnt token"},
        fixed={"wavelength": "5e7 nm", "bandwidth": "1e9 nm", "time": "not known: the learnt token"},
    ),
    "panopticon": _torchgeo(
        "panopticon",
        "panopticon",
        768,
        98_120_448,
        14,
        "CLS, or CLS and mean token, of the last 1 or 4 blocks",
        pooling="CLS",
        fixed={"channel ids": "VV -1, VH -2: of an unknown orbit"},
        statement="z-scores by the statistics of the data that is evaluated, as its publishers do",
    ),
    "anysat": Encoder(
        model="anysat",
        weights="anysat",
        carrier="this suite, with timm's blocks",
        code="fgmae_bench.models.encoders.anysat:make",
        variant="base",
        dim=768,
        params=94_854_752,
        patches=(4, 1, 2, 3, 5, 6, 8, 10, 12, 16),
        most_patches=1024,  # its README: a tile of no more
        maps="one map",
        pooling="tile token",
        pooling_of_origin="tile token",
        inputs={"day_of_year": "day 165 of 0 to 365 is assumed"},
        fixed={"sensor": "s1-asc", "series": "one date", "resolution": "10 m"},
        statement="z-scores by the statistics of the data that is evaluated, as its publishers do",
    ),
    "clay-v1.5-l": Encoder(
        model="clay-v1.5-l",
        weights="clay",
        carrier="this suite",
        code="fgmae_bench.models.encoders.clay:make",
        variant="large",
        dim=1024,
        params=311_442_944,
        patches=(8,),
        maps="one map",
        pooling="CLS",
        pooling_of_origin="CLS",
        fixed={"wavelengths": "3.5 and 4.0 micrometres", "resolution": "10 m", "time and place": "zeros"},
        statement="its Sentinel-1 images were terrain-corrected gamma0",
    ),
    "satlas-swin-b": _torchgeo(
        "satlas-swin-b",
        "satlas-si",
        1024,
        86_903_800,
        32,
        "mean of the last level",
        pooling="mean of the last level",
        statement="uncalibrated digital numbers alone: dB cannot be turned back",
    ),
    "softcon-vit-s14": _timm("vit_small_patch14_dinov2", "softcon", 384, 21_553_536, 14, "cls", "cls, 1 block"),
    "softcon-vit-b14": _timm("vit_base_patch14_dinov2", "softcon", 768, 85_574_400, 14, "cls", "cls, 4 blocks"),
    "softcon-resnet50": _timm("resnet50", "softcon", 2048, 23_504_896, 1, "mean"),
    "decur-resnet50": _timm("resnet50", "decur", 2048, 23_504_896, 1, "mean"),
    "ssl4eo-moco-resnet50": _timm("resnet50", "ssl4eo-moco", 2048, 23_504_896, 1, "mean"),
    "closp-resnet50": _timm("resnet50", "closp", 2048, 23_504_896, 1, "mean", statement="dB is inferred"),
    "closp-vit-s16": _timm("vit_small_patch16", "closp", 384, 21_567_360, 16, "cls", statement="dB is inferred"),
    "closp-vit-l16": _timm("vit_large_patch16", "closp", 1024, 303_039_488, 16, "cls", statement="dB is inferred"),
    # this suite's first family
    **{
        f"{family}-vit-{size}{patch}": _timm(model, family, dim, params, patch, "cls")
        for family in ("fgmae", "ssl4eo-mae")
        for size, model, dim, params, patch in (
            ("s", "vit_small_patch16", 384, 21_567_360, 16),
            ("b", "vit_base_patch16", 768, 85_602_048, 16),
            ("l", "vit_large_patch16", 1024, 303_039_488, 16),
            ("h", "vit_huge_patch14", 1280, 630_513_920, 14),
        )
    },
    # through terratorch
    **{
        f"terramind-v1-{size}": _terratorch(
            f"terramind-v1-{size}", "terramind", f"terramind_v1_{size}", dim, 16, {"modality": "S1GRD"}, params
        )
        for size, dim, params in (
            ("tiny", 192, 5_432_448),
            ("small", 384, 21_481_728),
            ("base", 768, 85_347_840),
            ("large", 1024, 302_516_224),
        )
    },
    # one polarisation
    **{
        name: _grey(name, "sarmae", variant, dim, params, 16, pooling="CLS", origin="CLS or mean of tokens")
        for name, variant, dim, params in (
            ("sarmae-vit-b16", "vit_base_patch16_224", 768, 85_798_656),
            ("sarmae-vit-l16", "vit_large_patch16_224", 1024, 303_301_632),
        )
    },
    **{
        f"sar-hub-resnet{depth}": _grey(
            f"sar-hub-resnet{depth}", "sar-hub", f"resnet{depth}", dim, params, 1, pooling="mean"
        )
        for depth, dim, params in ((18, 512, 11_176_512), (50, 2048, 23_508_032), (101, 2048, 42_500_160))
    },
    "sar-jepa-vit-b16": _grey(
        "sar-jepa-vit-b16",
        "sar-jepa",
        "base",
        768,
        85_292_544,
        16,
        carrier="this suite",
        code="fgmae_bench.models.encoders.sar_jepa:make",
        pooling="CLS",
    ),
    "saratr-x-hivit-b": _grey(
        "saratr-x-hivit-b",
        "saratr-x",
        "base",
        512,
        65_795_456,
        16,
        only_size=224,
        carrier="this suite, with timm's blocks",
        code="fgmae_bench.models.encoders.saratr_x:make",
        pooling="mean of tokens",
        origin="mean of tokens, then a norm that its probes train",
    ),
    # natural-image controls
    "dinov3-vit-b16": _timm("vit_base_patch16_dinov3", "imagenet", 768, 85_444_608, 16, "cls", statement=_OPTICAL),
    "dinov3-vit-l16-sat": _timm(
        "vit_large_patch16_dinov3.sat493m", "imagenet", 1024, 302_817_280, 16, "cls", statement=_OPTICAL
    ),
    "dinov3-convnext-tiny": _timm(
        "convnext_tiny.dinov3_lvd1689m", "imagenet", 768, 27_818_592, 1, "mean", statement=_OPTICAL
    ),
    "imagenet-vit-b16": _timm("vit_base_patch16", "imagenet", 768, 85_602_048, 16, "cls", statement=_OPTICAL),
    **{
        name: Encoder(
            model=name,
            weights="open-clip",
            carrier="open_clip_torch",
            extra="text",
            code="fgmae_bench.models.encoders.open_clip_images:make",
            variant=variant,
            dim=dim,
            params=params,
            patches=(patch,),
            only_size=side,
            maps="none: one vector",
            pooling="its own, in the space of texts",
            pooling_of_origin="its own, in the space of texts",
            statement="off-domain: a CLIP of optical photographs, fed VV, VH and their ratio as colours",
        )
        for name, variant, dim, params, patch, side in (
            ("clip-vit-b32", "ViT-B-32", 512, 87_849_216, 32, 224),
            ("clip-convnext-large-d320", "convnext_large_d_320", 768, 199_770_816, 32, 320),
        )
    },
    "imagenet-convnextv2-base": _timm(
        "convnextv2_base", "imagenet", 1024, 87_690_752, 1, "mean", statement=f"{_OPTICAL}; CC-BY-NC-4.0"
    ),
}


# Models that have no weights: `--weights` means nothing for them.
HANDMADE = ("backscatter_stats", "place_and_month")
EMBEDDINGS = "embeddings"  # vectors of a file, which --weights names
# Pixels that the sides of an input must be a multiple of, of models that their names do not say it of.
STRIDES = {"unet": 16, **{f"mit_b{number}": 32 for number in range(6)}}


@cache
def encoders() -> dict[str, Encoder]:
    """The shipped encoders and those of installed packages, which may not take a shipped name.

    An entry point names an `Encoder`. Raises BenchError on anything else, naming the package.
    """
    found = dict(ENCODERS)
    for point in entry_points(group=GROUP):
        entry = loaded("encoder", point.name, point.load)
        if not isinstance(entry, Encoder):
            what = f"the entry point {point.name} of {GROUP} is of type {type(entry).__name__}"
            raise BenchError(what, "let it name a fgmae_bench.config.encoders.Encoder")
        if point.name in found:
            raise BenchError(f"the encoder {point.name} is defined twice", "rename the entry point")
        found[point.name] = entry
    return found


def adapter_of(model: str) -> Encoder | None:
    """The entry of a model that is built under our interface, None for one of timm and anything else."""
    return next((entry for entry in encoders().values() if entry.model == model and entry.code), None)
