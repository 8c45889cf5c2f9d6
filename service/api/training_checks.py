"""What a training's whole configuration must be to be trained, found out before it is queued: its teacher, batches and size.

Every error names its place in the body.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from service.api.schemas.trainings import TrainingBody
from service.api.training_settings import Circumstances, KnownModel
from service.domain.dataset import Dataset
from service.domain.published_learngene import RESERVED_NAMES
from service.domain.training import description_of, provenance_of
from tleg_core.anchor_config import AnchorRule, PoolNetwork
from tleg_core.description import MAX_TEXT, Description
from tleg_core.errors import ConfigError
from tleg_core.inheritance_config import InheritanceConfig
from tleg_core.learngene_config import LearngeneConfig
from tleg_core.pool_config import PoolConfig, StitchInit
from tleg_core.training_config import TrainingConfig
from tleg_core.training_recipe import AnyConfig

_RESIZING = ("bilinear", "bicubic")  # what the engine can resize a batch by
_CHANNELS = 3  # of every data set's images
_MAX_EVIDENCE = 20_000  # numbers of a choice of layers, as the engine has it


def check_config(body: TrainingBody, config: AnyConfig, known: Circumstances) -> None:
    """Raise `ConfigError` where the engine would refuse the configuration."""
    match config:
        case LearngeneConfig():
            _check_learngene(config, known)
            _check_batches(body, known.num_train, {"training": config.training})
        case PoolConfig():
            _check_pool(config, known)
            phases = {"training": config.training} if len(known.anchors) < len(config.anchors) else {}
            _check_batches(body, known.num_train, phases | ({"joint": config.joint_config} if config.joint.epochs else {}))
        case InheritanceConfig():
            _check_inheritance(body, config, known)


def check_description(body: TrainingBody, config: AnyConfig, dataset: Dataset, known: Circumstances) -> Description:
    """Return what the learngene will say of itself; raises `ConfigError` where it could not."""
    if body.name in RESERVED_NAMES:
        raise ConfigError("name", f"{body.name} is a path of this server; choose another")
    provenance = provenance_of(
        dataset,
        config,
        name=body.name,
        images=dataset.num_train,
        teacher=body.teacher,
        licence=body.licence,
        anchors={name: anchor.model.id for name, anchor in known.anchors.items()},
    )
    if len(provenance.command) > MAX_TEXT:
        raise ConfigError("config", f"is too long to be recorded with the learngene: more than {MAX_TEXT} characters")
    ancestry = None if known.teacher is None else (known.teacher.model.stack, known.teacher.preprocessing)
    try:
        return description_of(body.name, config, provenance, dataset.class_names, ancestry=ancestry)
    except ConfigError as error:
        text = "dataset" if body.licence.isprintable() else "licence"
        places = {"name": "name", "provenance": text, "class_names": "dataset"}
        raise ConfigError(places.get(error.field, f"config.{error.field}"), error.reason) from error


def check_size(description: Description, config: AnyConfig, max_bytes: int) -> None:
    """Raise `ConfigError` where the learngene would be too large to be published."""
    size = 4 * sum(math.prod(shape) for shape in description.design.tensor_shapes().values())  # float32
    if size > max_bytes:
        place = {PoolConfig: "config.anchors", InheritanceConfig: "config.selection"}.get(type(config), "config.network")
        raise ConfigError(place, f"makes a learngene of {size:,} bytes; this server takes {max_bytes:,}")


def _check_learngene(config: LearngeneConfig, known: Circumstances) -> None:
    alpha = config.distillation.alpha
    if known.teacher is None and alpha:
        raise ConfigError("config.distillation.alpha", f"is {alpha:g}, but there is no teacher")
    if known.teacher is not None and not alpha:
        raise ConfigError("config.distillation.alpha", "is 0: the teacher has no use")
    if known.teacher is not None:
        _check_teacher(known.teacher, resizes=known.teacher.model.config.img_size != config.network.img_size)


def _check_batches(body: TrainingBody, num_train: int, trainings: Mapping[str, TrainingConfig]) -> None:
    """Raise `ConfigError` unless there are images for a batch, and its parts for the processes."""
    for section, training in trainings.items():
        place = f"config.{section}.batch_size"
        if training.batch_size > num_train:
            raise ConfigError(place, f"{training.batch_size} is more than the {num_train} training images")
        each, rest = divmod(training.batch_size, body.nproc)
        if rest:
            raise ConfigError(place, f"{training.batch_size} is not a multiple of nproc {body.nproc}")
        if training.augmentation.views is not None and training.augmentation.repeats > 1:
            raise ConfigError("config.augmentation.repeats", "must be 1 with views: each repeat is a draw of its own")
        if training.augmentation.mixes and each % 2:
            raise ConfigError(place, f"must be even for each of {body.nproc} processes with mixup or cutmix")


# A pool.


def _check_pool(config: PoolConfig, known: Circumstances) -> None:
    names = [anchor.name for anchor in config.anchors]
    for name in known.anchors:
        if name not in names:
            raise ConfigError(f"config.anchors.{name[:80]}", f"is none of the anchors, {', '.join(names)}")
    for at, name in enumerate(names):
        if name in known.anchors:
            _check_anchor(config, at, known.anchors[name])
    needed = config.learns_from_ancestry(known.anchors)
    if needed and known.teacher is None:
        distilled = config.anchor_training.rule is AnchorRule.DISTILLED
        what = "anchors that are distilled (config.anchor_training.rule)" if distilled else "alpha above 0"
        raise ConfigError("teacher", f"is needed: the configuration has {what}")
    if known.teacher is not None and not needed:
        raise ConfigError("teacher", "has no use: config.anchor_training.alpha and config.joint.alpha or epochs are 0")
    by_features = config.anchor_training.rule is AnchorRule.DISTILLED  # the engine then reads it as an ancestry's file
    if known.teacher is not None:
        other_size = known.teacher.model.config.img_size != config.network.img_size
        _check_teacher(known.teacher, resizes=by_features or other_size)
    if by_features and len(known.anchors) < len(names):
        _check_distillation(config, known)
    elif config.stitched and config.stitching.init is StitchInit.LEARNED:
        raise ConfigError("config.stitching.init", "learned needs anchors that are distilled here, not given")


def _check_anchor(config: PoolConfig, at: int, known: KnownModel) -> None:
    """Raise `ConfigError` unless a model is the anchor as it is configured."""
    anchor, model = config.anchors[at], known.model
    place = f"config.anchors.{anchor.name}.model"
    if not model.stack.is_plain:
        raise ConfigError(place, f"{model.id} is stitched; an anchor is a plain ViT")
    wanted, own = anchor.vit(config.network, model.recipe.num_classes), model.config
    names = ("img_size", "patch_size", "class_token", "embed_dim", "num_heads", "mlp_ratio", "in_chans")
    pairs = [(name, getattr(own, name), getattr(wanted, name)) for name in names]
    differing = [f"{name} {theirs}, not {ours}" for name, theirs, ours in pairs if theirs != ours]
    if model.stack.depth != anchor.depth:
        differing.append(f"depth {model.stack.depth}, not {anchor.depth}")
    if not differing and own != wanted:
        differing.append("another pooling")
    if differing:
        raise ConfigError(place, f"{model.id} has {'; '.join(differing)}")
    if known.preprocessing != config.preprocessing:
        raise ConfigError(place, f"{model.id} expects another preprocessing of images than config.preprocessing says")


def _check_distillation(config: PoolConfig, known: Circumstances) -> None:
    """Raise `ConfigError` unless the anchors can learn from what the teacher's blocks put out."""
    teacher = known.teacher
    if teacher is None:  # refused before
        return
    _check_plain(teacher, "for distilled anchors; config.anchor_training.rule alone learns logits from any model")
    theirs, network = teacher.model.config, config.network
    if (theirs.grid_size, theirs.class_token) != (network.img_size // network.patch_size, network.class_token):
        raise ConfigError("teacher", f"{teacher.model.id} has {_tokens(theirs.grid_size, theirs.class_token)}; {_own(network)}")
    depth = teacher.model.stack.depth
    for anchor in config.anchors:
        if anchor.name not in known.anchors:
            try:
                anchor.positions.blocks(depth)
            except ConfigError as error:
                raise ConfigError("teacher", f"{teacher.model.id}: {error.reason}, as positions of {anchor.name}") from error
    if config.stitched and config.stitching.init is StitchInit.LEARNED:
        for anchor in config.anchors:
            width = anchor.vit(network, num_classes=1).embed_dim
            if anchor.name in known.anchors and width != theirs.embed_dim:
                place = f"config.anchors.{anchor.name}.model"
                raise ConfigError(place, "cannot be with config.stitching.init learned: no matrix leads to its width")


def _tokens(grid_size: int, class_token: bool) -> str:
    return f"{grid_size} x {grid_size} patches {'and a' if class_token else 'without'} class token"


def _own(network: PoolNetwork) -> str:
    side = network.img_size // network.patch_size
    return f"the anchors have {_tokens(side, network.class_token)} (config.network)"


# Layers of an ancestry model.


def _check_inheritance(body: TrainingBody, config: InheritanceConfig, known: Circumstances) -> None:
    teacher = known.teacher
    if teacher is None:
        raise ConfigError("teacher", "is needed: its layers are what is inherited")
    _check_plain(teacher, "whose layers can be inherited")
    _check_teacher(teacher, resizes=False)  # images come in its size
    depth = teacher.model.stack.depth
    try:
        config.check_ancestry(depth)
    except ConfigError as error:
        raise ConfigError(f"config.{error.field}", error.reason) from error
    if body.nproc > 1:
        raise ConfigError(
            "nproc", f"must be 1 where layers are chosen, not {body.nproc}: gradients of whole batches are compared"
        )
    if config.transfer is not None:
        if depth * config.transfer.depth > _MAX_EVIDENCE:
            raise ConfigError("config.transfer.depth", f"gives more than {_MAX_EVIDENCE:,} pairs of layers")
        _check_batches(body, known.num_train, {"training": config.training})
    if config.stability is not None:
        _check_batches(body, known.num_train, {"training": config.training})
        _check_tasks(config, depth, known)


def _check_tasks(config: InheritanceConfig, depth: int, known: Circumstances) -> None:
    """Raise `ConfigError` unless whichever classes are drawn for a task have images for it."""
    tasks, training = config.stability, config.training
    if tasks is None:
        return
    present = sorted(count for count in known.train_counts if count)
    if len(present) < tasks.classes_per_task:
        place = "config.stability.classes_per_task"
        raise ConfigError(place, f"{tasks.classes_per_task} is more than the {len(present)} classes with images")
    fewest = sum(present[: tasks.classes_per_task])
    if training.batch_size > fewest:
        place = "config.training.batch_size"
        raise ConfigError(place, f"{training.batch_size} is more than the {fewest} images that a task may have")
    updates = fewest // training.batch_size * training.epochs
    if tasks.windows > updates:
        raise ConfigError("config.stability.windows", tasks.lacking_updates(updates, "a task may have"))
    numbers = (tasks.num_tasks + tasks.windows) * depth + tasks.num_tasks * tasks.classes_per_task
    if numbers > _MAX_EVIDENCE:
        place = "config.stability.num_tasks"
        raise ConfigError(place, f"gives {numbers:,} numbers of evidence, more than {_MAX_EVIDENCE:,}")


# Teachers.


def _check_plain(teacher: KnownModel, what: str) -> None:
    """Raise `ConfigError` unless the teacher is a plain ViT."""
    if not teacher.model.stack.is_plain:
        raise ConfigError("teacher", f"{teacher.model.id} is stitched; it must be a plain ViT {what}")


def _check_teacher(teacher: KnownModel, *, resizes: bool) -> None:
    """Raise `ConfigError` unless the engine can show the teacher images: in colour, and resized if `resizes`."""
    model, way = teacher.model, teacher.preprocessing.interpolation
    if model.config.in_chans != _CHANNELS:
        raise ConfigError("teacher", f"{model.id} has {model.config.in_chans} input channels, not {_CHANNELS}")
    if resizes and way not in _RESIZING:
        raise ConfigError("teacher", f"{model.id} is of images resized by {way}, not {' or '.join(_RESIZING)}")
