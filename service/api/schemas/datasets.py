"""Data sets on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from service.domain.dataset import StoredDataset


class DatasetClass(BaseModel):
    """One class of a data set."""

    name: str = Field(description="What the class is called.", examples=["daisy"])
    train: int = Field(description="Training images of it.")
    test: int = Field(description="Images of it in the upload's own test split.")


class RefusedImage(BaseModel):
    """An image that was left out."""

    name: str = Field(description="Its path in the upload, or its row.", examples=["flowers/daisy/broken.jpg"])
    reason: str = Field(description="Why, as in `refused`.", examples=["damaged"])


class DatasetSummary(BaseModel):
    """A data set in a list."""

    object: Literal["dataset"] = Field("dataset", description="Always `dataset`.")
    id: str = Field(
        description="`ds-` and 32 hex digits of the content's sha256: the same images in the same classes have the same id, "
        "whatever they were packed in.",
        examples=["ds-0123456789abcdef0123456789abcdef"],
    )
    name: str = Field(description="What its first uploader called it, for people only.")
    num_classes: int = Field(description="Number of classes.")
    images: int = Field(description="Number of images, training and test.")
    train: int = Field(description="Training images.")
    test: int = Field(description="Images of the upload's own test split; 0 where it has none.")
    size_bytes: int = Field(description="Bytes of all images, as they were uploaded.")
    min_side: int = Field(description="Smallest side of an image, in pixels.")
    max_side: int = Field(description="Largest side of an image, in pixels.")
    formats: dict[str, int] = Field(description="Images by format: `JPEG`, `PNG`, `WEBP`.")
    refused: dict[str, int] = Field(
        description="Images that were left out, by reason: `empty`; `format` (neither JPEG nor PNG nor WebP, by content); "
        "`damaged` (cut short too); `animated`; `too_many_pixels`; `too_many_bytes`; `no_class` (not in a class folder); "
        "`no_image` and `no_label` (rows without). In the answer to an upload that was there already, that upload's."
    )
    created_at: datetime = Field(description="When it was first uploaded.")
    links: dict[str, str] = Field(description="Paths on this server: self.")

    @classmethod
    def of(cls, stored: StoredDataset) -> Self:
        """Describe a stored data set."""
        return cls(**_fields(stored))


class DatasetResource(DatasetSummary):
    """A data set: validated images in classes, ready to fine-tune on."""

    classes: list[DatasetClass] = Field(description="The classes, in label order.")
    refused_examples: list[RefusedImage] = Field(description="Some of the images that were left out, a few of each reason.")

    @classmethod
    def of(cls, stored: StoredDataset) -> Self:
        """Describe a stored data set."""
        dataset = stored.dataset
        counts = zip(dataset.class_names, dataset.train_counts, dataset.test_counts, strict=True)
        return cls(
            **_fields(stored),
            classes=[DatasetClass(name=name, train=train, test=test) for name, train, test in counts],
            refused_examples=[RefusedImage(name=name, reason=reason) for name, reason in dataset.refused_examples],
        )


class DatasetList(BaseModel):
    """A page of data sets, newest first."""

    object: Literal["list"] = Field("list", description="Always `list`.")
    data: list[DatasetSummary] = Field(description="The data sets, newest first.")
    has_more: bool = Field(description="Whether more follow; pass the last id as `after`.")


def _fields(stored: StoredDataset) -> dict[str, Any]:
    dataset = stored.dataset
    return {
        "id": dataset.id,
        "name": dataset.name,
        "num_classes": len(dataset.class_names),
        "images": dataset.num_train + dataset.num_test,
        "train": dataset.num_train,
        "test": dataset.num_test,
        "size_bytes": dataset.size_bytes,
        "min_side": dataset.min_side,
        "max_side": dataset.max_side,
        "formats": dict(dataset.formats),
        "refused": dict(dataset.refused),
        "created_at": stored.created_at,
        "links": {"self": f"/datasets/{dataset.id}"},
    }
