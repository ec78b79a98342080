"""python -m training pocket | controlnet NAME | lora NAME | judge: the pocket models and what they are worth.

What is learned is kept every two minutes in the run folder; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from platformdirs import user_cache_path

from core.errors import DarkroomError
from core.settings import ROOT
from training.domain import BACKDROPS
from training.runs import Clock

MODELS = ROOT / "models"
POCKET = MODELS / "checkpoints" / "pocket"


def pocket(options: argparse.Namespace, clock: Clock) -> None:
    from training.base import RECIPES, device, train_more, train_pocket
    from training.exam import engine_for

    out, recipe = options.out or options.run / "models" / "checkpoints" / "pocket", RECIPES[device()]
    if options.begun:
        engine_for(options.begun)
        train_more(recipe, options.begun, options.run / "pocket", clock, out)
    else:
        train_pocket(recipe, options.run / "pocket", clock, out)
    print(f"Written to {out}; python -m training judge {out} scores it.")


def controlnet(options: argparse.Namespace, clock: Clock) -> None:
    from training.addons import CONTROLNETS, save_controlnet, train_controlnet
    from training.exam import engine_for, examine_controlnet

    engine_for(options.base)
    if not options.score:
        net = train_controlnet(options.name, CONTROLNETS[options.name], options.base, options.run, clock)
        save_controlnet(net, options.base, options.base.parents[1] / "controlnet" / f"pocket-{options.name}")
    print(examine_controlnet(options.name, options.base))


def lora(options: argparse.Namespace, clock: Clock) -> None:
    from training.addons import LORAS, save_lora, train_lora
    from training.exam import engine_for, examine_lora
    from training.judge import load_judge

    engine_for(options.base)
    if not options.score:
        out = options.base.parents[1] / "loras" / f"pocket-{options.name}.safetensors"
        out.parent.mkdir(parents=True, exist_ok=True)
        unet = train_lora(options.name, LORAS[options.name], options.base, options.run, clock)
        save_lora(unet, options.name, options.base, out)
    print(examine_lora(options.name, load_judge(), options.base))


def judge(options: argparse.Namespace, clock: Clock) -> None:
    from training.exam import engine_for, examine_checkpoint
    from training.judge import PICTURES, PLAN, load_judge, own_score, save_judge, table, train_judge

    if options.train:
        save_judge(train_judge(PLAN, PICTURES, options.run, clock))
        print(table({"real renders": own_score(load_judge())}))
        return
    engine_for(options.checkpoint)
    print(examine_checkpoint(load_judge(), options.checkpoint, options.sheet))


def main() -> None:
    options = _parser().parse_args()
    try:
        options.run.mkdir(parents=True, exist_ok=True)
        options.work(options, Clock(options.minutes))
    except DarkroomError as error:
        sys.exit(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--minutes", type=float, help="stop after so many; run it again to go on")
    common.add_argument(
        "--run", type=Path, default=user_cache_path("darkroom") / "training", help="folder of what is learned"
    )
    addon = argparse.ArgumentParser(add_help=False)
    addon.add_argument("--base", type=Path, default=POCKET, help="the checkpoint it is for")
    addon.add_argument("--score", action="store_true", help="only score the one that is there")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("pocket", parents=[common], help="VAE, text encoder and U-Net")
    command.add_argument("--out", type=Path, help="where the checkpoint is written; else into the run folder")
    command.add_argument("--from", dest="begun", type=Path, help="a finished checkpoint of it, which learns on")
    command.set_defaults(work=pocket)
    command = commands.add_parser("controlnet", parents=[common, addon], help="a network that steers the layout")
    command.add_argument("name", choices=["canny", "fill"])
    command.set_defaults(work=controlnet)
    command = commands.add_parser("lora", parents=[common, addon], help="a style")
    command.add_argument("name", choices=list(BACKDROPS))
    command.set_defaults(work=lora)
    command = commands.add_parser(
        "judge", parents=[common], help="score a checkpoint on 200 captions it has not seen"
    )
    command.add_argument("checkpoint", type=Path, nargs="?", default=POCKET)
    command.add_argument("--sheet", type=Path, help="also write the 200 pictures as one picture")
    command.add_argument("--train", action="store_true", help="train the judge itself anew")
    command.set_defaults(work=judge)
    return parser


if __name__ == "__main__":
    main()
