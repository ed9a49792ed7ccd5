"""The training loop on the small synthetic EuroSAT, from Python, in float64; only keyed choices are random.

  python -m torch.distributed.run --standalone --nproc_per_node=2 tests/train_world.py WORLD OUT BATCH ACCUM [sync]
writes the parameters after 3 steps as OUT, for the test that compares numbers of processes.
"""

import dataclasses
import sys
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.config.recipes import FinetuneRecipe
from fgmae_bench.config.run import Data, Execution, Run
from fgmae_bench.data.dataset import open_dataset
from fgmae_bench.models.pooling import TokenPool
from fgmae_bench.system.distributed import World, join_world, leave_world
from fgmae_bench.train.classification import ClassificationJob, Classifier
from fgmae_bench.train.finetune import synchronised
from fgmae_bench.train.loop import Loop
from fgmae_bench.train.plan import make_plan
from fgmae_bench.views.classification import make_view

CONTRACT = dataclasses.replace(FGMAE_CONTRACT, size=32)


def small_vit(drop_path=0.0):
    """Two blocks at 32 px."""
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32,
        patch_size=16,
        in_chans=2,
        num_classes=0,
        embed_dim=24,
        depth=2,
        num_heads=2,
        drop_path_rate=drop_path,
    )


def make_loop(root, recipe, world=None, *, double=False, stop=lambda: False, drop_path=0.0, card="eurosat"):
    """A loop ready to run; its job under `job`."""
    world = world or World()
    card = load_card(card)
    data = Data(dataset=card.name, split=card.default_split)
    dataset = open_dataset(
        card, Run(data=data, model=None, recipe=recipe, execution=Execution(data_path=str(root))), Path("unused")
    )
    model = Classifier(TokenPool(small_vit(drop_path), "cls"), 24, len(card.classes), recipe)
    if recipe.sync_bn:
        model.norm = synchronised(model.norm, 24)
    model = model.double() if double else model
    view = make_view(card, CONTRACT, None)
    job = ClassificationJob(
        model=model,
        dataset=dataset,
        view=view,
        recipe=recipe,
        world=world,
        device=torch.device("cpu"),
        amp="off",
        workers=0,
        batch_size=16,
    )
    plan = make_plan(recipe, len(job.train), world.size)
    return Loop(
        job=job, plan=plan, recipe=recipe, world=world, device=torch.device("cpu"), amp="off", workers=1, stop=stop
    )


def run(loop, steps=None):
    """Train without evaluating or saving."""
    if steps is not None:
        loop.plan = dataclasses.replace(loop.plan, total=steps)
    loop.run(lambda: None, lambda: None, lambda: False)
    return loop


def recipe_of(batch, accum, sync):
    return FinetuneRecipe(
        optimizer="sgd" if sync else "adamw",  # Adam divides rounding by rounding where a gradient is zero
        lr=1e-2,
        weight_decay=0.05,
        layer_decay=0.75,
        batch_size=batch,
        accum_iter=accum,
        epochs=3,
        crop_scale=0.3,
        clip_grad=1.0,
        smoothing=0.1,
        head="bn_linear" if sync else "linear",
        sync_bn=sync,
    )


def main():
    root, out, batch, accum = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    world, _ = join_world(torch.device("cpu"))
    loop = run(make_loop(root, recipe_of(batch, accum, "sync" in sys.argv), world, double=True), steps=3)
    if world.rank == 0:
        torch.save(
            {"model": loop.job.model.state_dict(), "loss": torch.tensor(loop.period.loss, dtype=torch.float64)}, out
        )
    leave_world()


if __name__ == "__main__":
    main()
