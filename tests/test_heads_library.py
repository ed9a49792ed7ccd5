"""Heads of other libraries against the libraries' own calls, pyramids against timm's `features_only`, processes."""

import json

import preloaded
import pytest
import timm
import torch
from torch import nn

from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.heads import make_head
from fgmae_bench.models.taps import PyramidMaps, make_taps

DIM, CLASSES, WIDTH = 24, 5, 32
PYRAMID = (4, 8, 16, 32)


def pyramid(batch=2, coarsest=2, dims=(DIM,) * 4):
    return [torch.randn(batch, d, coarsest << i, coarsest << i) for d, i in zip(dims, (3, 2, 1, 0), strict=True)]


def whole(maps):
    """What the decoders of segmentation_models_pytorch are given: an image, a map without channels, the maps."""
    count, _, side, _ = maps[0].shape
    return [torch.randn(count, 3, 4 * side, 4 * side), torch.randn(count, 0, 2 * side, 2 * side), *maps]


CHANNELS = [3, 0, DIM, DIM, DIM, DIM]
# Head -> (module and class of the library, its arguments, what its forward is given, map of the last layer's kernel)
SMP = {
    "smp_fpn": ("fpn.FPNDecoder", (CHANNELS, 5, WIDTH, 32), whole),
    "smp_unet": ("unet.UnetDecoder", (CHANNELS, (32, 16, 8, 8, 8)), whole),
    "smp_manet": ("manet.MAnetDecoder", (CHANNELS, (32, 16, 8, 8, 8)), whole),
    "smp_pspnet": ("pspnet.PSPDecoder", ([DIM] * 4, "batchnorm", WIDTH), list),
    "smp_deeplabv3plus": (
        "deeplabv3.DeepLabV3PlusDecoder",
        (CHANNELS, 5, WIDTH, (6, 12, 18), 16, True, 0.0),
        lambda maps: [*whole(maps)[:5], nn.functional.interpolate(maps[-1], scale_factor=2, mode="bilinear")],
    ),
    "smp_pan": ("pan.PANDecoder", (CHANNELS, 5, WIDTH), whole),
    "smp_segformer": ("segformer.SegformerDecoder", (CHANNELS, 5, WIDTH), whole),
    "smp_upernet": ("upernet.UPerNetDecoder", (CHANNELS, 5, WIDTH), whole),
}


def evaluated(module):
    """In evaluation, with running statistics and weights that are not the initial ones."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.2 + (0.9 if tensor.dim() < 2 else -0.1))
    return module.eval()


@pytest.mark.parametrize("name", SMP)
def test_a_decoder_of_smp_is_the_librarys_own_call(name):
    smp = pytest.importorskip("segmentation_models_pytorch")
    where, arguments, given = SMP[name]
    head = evaluated(make_head(name, (DIM,) * 4, PYRAMID, CLASSES, fpn_dim=WIDTH))
    module, kind = where.split(".")
    decoder = getattr(getattr(smp.decoders, module).decoder, kind)(*arguments).eval()
    decoder.load_state_dict(head.decoder.state_dict())
    maps = pyramid(coarsest=8 if name == "smp_pan" else 2)
    with torch.no_grad():
        expected = head.classify(decoder(given([level.clone() for level in maps])))
        found = head(maps, tuple(expected.shape[-2:]))
    torch.testing.assert_close(found, expected)


def test_dpt_of_smp_is_the_librarys_own_call():
    smp = pytest.importorskip("segmentation_models_pytorch")
    head = evaluated(make_head("smp_dpt", (DIM,) * 4, (16,) * 4, CLASSES, fpn_dim=WIDTH))
    decoder = smp.decoders.dpt.decoder.DPTDecoder(
        encoder_out_channels=[DIM] * 4,
        encoder_output_strides=[16] * 4,
        encoder_has_prefix_tokens=False,
        readout="ignore",
        intermediate_channels=(32, 64, 128, 128),
        fusion_channels=WIDTH,
    ).eval()
    decoder.load_state_dict(head.decoder.state_dict())
    maps = [torch.randn(2, DIM, 4, 4) for _ in range(4)]
    with torch.no_grad():
        expected = head.classify(decoder(maps, [None] * 4))
        torch.testing.assert_close(head(maps, tuple(expected.shape[-2:])), expected)


def test_upernet_differs_from_smps_by_a_layer_norm_of_each_map():
    """At equal widths ours has fewer parameters by those norms and by smp's classifier of the same size: none else."""
    pytest.importorskip("segmentation_models_pytorch")
    with torch.device("meta"):
        ours, theirs = (make_head(n, (768,) * 4, PYRAMID, 8, fpn_dim=512) for n in ("uper", "smp_upernet"))
    count = [sum(p.numel() for p in head.parameters()) for head in (ours, theirs)]
    assert count[1] - count[0] == 4 * 2 * 768
    assert count[0] == 32_260_104
    ours = evaluated(make_head("uper", (DIM,) * 4, PYRAMID, CLASSES, fpn_dim=WIDTH))
    theirs = make_head("smp_upernet", (DIM,) * 4, PYRAMID, CLASSES, fpn_dim=WIDTH).eval()
    theirs.decoder.feature_norms = nn.ModuleList([nn.Identity()] * 4)
    _copy_upernet(ours, theirs)
    maps = pyramid()
    with torch.no_grad():
        torch.testing.assert_close(theirs([m.clone() for m in maps], (64, 64)), ours(maps, (64, 64)))


def _copy_upernet(ours, theirs):
    """Our convolutions into smp's, which counts its laterals from the coarsest."""
    pairs = [(ours.psp_modules[i][1], theirs.decoder.psp.blocks[i][1]) for i in range(4)]
    pairs += [(ours.bottleneck, theirs.decoder.psp.out_conv), (ours.fpn_bottleneck, theirs.decoder.fusion_block)]
    for i in range(3):
        pairs.append((ours.lateral_convs[2 - i], theirs.decoder.fpn_lateral_blocks[i].conv_norm_relu))
        pairs.append((ours.fpn_convs[2 - i], theirs.decoder.fpn_conv_blocks[i]))
    for mine, their in pairs:
        their[0].load_state_dict(mine.conv.state_dict())
        their[1].load_state_dict(mine.bn.state_dict())
    theirs.classify[0].load_state_dict(ours.conv_seg.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maskformer", "mask2former"])
def test_mask_classification_is_transformers_own_model(name):
    """The library's whole model with its weights, behind its own Swin: class and mask logits, and the map of classes."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        image_size=64,
        embed_dim=24,
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    more = {"mask_feature_size": WIDTH, "backbone_config": swin, "num_labels": CLASSES}
    if name == "maskformer":
        decoder = {"model_type": "detr", "d_model": WIDTH, "num_queries": 100, "decoder_ffn_dim": 8 * WIDTH}
        config = transformers.MaskFormerConfig(fpn_feature_size=WIDTH, decoder_config=decoder, **more)
        model = transformers.MaskFormerForInstanceSegmentation(config).eval()
        level, core = model.model.pixel_level_module, model.model.transformer_module
    else:
        config = transformers.Mask2FormerConfig(
            feature_size=WIDTH, hidden_dim=WIDTH, encoder_feedforward_dim=4 * WIDTH, dim_feedforward=8 * WIDTH, **more
        )
        model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
        level, core = model.model.pixel_level_module, model.model.transformer_module
    head = make_head(name, (24, 48, 96, 192), PYRAMID, CLASSES, fpn_dim=WIDTH).eval()
    head.pixels.load_state_dict(level.decoder.state_dict())
    head.transformer.load_state_dict(core.state_dict())
    head.class_predictor.load_state_dict(model.class_predictor.state_dict())
    if name == "maskformer":
        head.mask_embedder.load_state_dict(model.mask_embedder.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = list(level.encoder(images).feature_maps)
        theirs = model(images)
        classes, masks = head.queries(maps)[-1]
        torch.testing.assert_close(classes, theirs.class_queries_logits)
        torch.testing.assert_close(masks, theirs.masks_queries_logits)
        out = head(maps, (16, 16)).exp()
    weights, where = theirs.class_queries_logits.softmax(-1)[..., :-1], theirs.masks_queries_logits.sigmoid()
    expected = torch.einsum("bqk,bqhw->bkhw", weights, where)
    torch.testing.assert_close(out, expected.clamp(min=1e-6), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnest14d", "mobilenetv2_050", "convnext_atto", "poolformer_s12", "twins_pcpvt_small"],
)
def test_pyramids_are_those_of_timms_features_only(name):
    backbone = build_backbone(Model(model=name, weights="random", input_size=64), seed=0)
    taps = make_taps(backbone.module, 64)
    assert isinstance(taps, PyramidMaps)
    reference = timm.create_model(name, in_chans=2, features_only=True).eval()
    renamed = _names_of(reference, taps.inner.state_dict())
    missing, _ = reference.load_state_dict(renamed, strict=False)
    assert not missing
    images = torch.randn(1, 2, 64, 64)
    with torch.no_grad():
        expected = reference(images)[-4:]
        found = taps(images)
    assert [tuple(level.shape[1:]) for level in found] == [tuple(level.shape[1:]) for level in expected]
    assert taps.strides == tuple(reference.feature_info.reduction()[-4:])
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def _names_of(reference, state):
    """The tensors under the names of the wrapped model, which flattens the first part of some."""
    wanted, found = reference.state_dict(), {}
    for name, tensor in state.items():
        options = [name, name.replace(".", "_", 1), name.replace("stages_", "stages.", 1), f"model.{name}"]
        found |= {option: tensor for option in options if option in wanted}
    return found


def test_swin_gives_its_four_levels_channels_first():
    backbone = build_backbone(Model(model="swin_tiny_patch4_window7_224", weights="random", input_size=224), seed=0)
    taps = make_taps(backbone.module, 224)
    with torch.no_grad():
        maps = taps(torch.zeros(1, 2, 224, 224))
    assert [tuple(level.shape[1:]) for level in maps] == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]


WORKER = """
import json, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
from fgmae_bench.config.names import HEADS, HEADS_THAT_DRAW
from fgmae_bench.models.heads import make_head
from fgmae_bench.system.distributed import World
from fgmae_bench.train.head_losses import loss_of
rank, size = dist.get_rank(), dist.get_world_size()
found = {}
for name in sorted(set(HEADS) - set(HEADS_THAT_DRAW)):
    torch.manual_seed(0)
    head = make_head(name, (24,) * 4, (16,) * 4, 5, fpn_dim=32, auxiliary=True).train().double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    maps = [torch.randn(4, 24, 4, 4).double() for _ in range(4)]
    targets = torch.randint(0, 5, (4, 32, 32), dtype=torch.uint8)
    targets[0, :20] = 255
    mine = slice(rank, None, size)
    loss = loss_of(head([level[mine] for level in maps], (32, 32)), targets[mine], World(rank=rank, size=size))
    loss.backward()
    total = torch.cat([p.grad.flatten() for p in head.parameters()]) / size
    value = loss.detach() / size
    dist.all_reduce(total)
    dist.all_reduce(value)
    found[name] = [value.item(), total.norm().item(), total.abs().sum().item()]
if rank == 0:
    print(json.dumps(found))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_every_head_learns_on_two_processes_what_it_learns_on_one():
    """Loss and gradient of one batch of four, all in one process and half in each of two; Mask2Former draws points."""
    results = []
    for count in (1, 2):
        done = preloaded.run_ranks(count, ["-c", WORKER])
        assert [rank.returncode for rank in done] == [0] * count, done
        results.append(json.loads(next(line for line in done[0].stdout.splitlines() if line.startswith("{"))))
    assert results[0].keys() == results[1].keys()
    for name, one in results[0].items():
        assert results[1][name] == pytest.approx(one, rel=1e-6), name
