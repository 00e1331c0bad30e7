"""Printed names of data sets and networks, and the names they are registered under here."""

DATASETS = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "ImageNet": "imagenet"}

ARCHITECTURES = {
    "WRN-28-10": ("wrn-28-10", "wrn-28-10-silu"),
    "MobileNetV1": ("mobilenet-v1",),
    "ResNet18": ("resnet18", "imagenet-resnet18"),
    "ResNet34": ("resnet34", "imagenet-resnet34"),
    "ResNet50": ("resnet50", "imagenet-resnet50"),
}


def dataset_name(printed: str) -> str:
    """The registered name of a printed data set; a registered name stays."""
    return DATASETS.get(printed, printed)


def architecture_names(printed: str) -> tuple[str, ...]:
    """The registered names that a printed network may have; a registered name stays."""
    return ARCHITECTURES.get(printed, (printed.lower(),))
