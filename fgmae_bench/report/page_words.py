"""What the page calls a column and says about it on hover; a column that is not listed goes by its name."""

from __future__ import annotations

# Column -> heading and explanation.
WORDS = {
    "dataset": ("dataset", ""),
    "split": ("split", "Which samples are for training and which for the test"),
    "run": ("run", "Opens the full record"),
    "weights": ("weights", "Where the backbone's weights come from"),
    "recipe": ("recipe", "published: as the paper's code did; corrected: as recommended"),
    "views": ("views", "Augmented views of each training image in the feature bank"),
    "weight_decay": ("weight decay", ""),
    "batch_size": ("batch / process", "Samples in one step of one process"),
    "effective_batch": ("batch", "Samples in one step over all processes and accumulated batches"),
    "world_size": ("processes", ""),
    "train_frac": ("train fraction", "Share of the training split that was used"),
    "n_train": ("n train", "Samples of the training split"),
    "n_val": ("n val", "Samples of the validation split"),
    "n_test": ("n test", "Samples of the test split"),
    "params_total": ("parameters", "Parameters of backbone and head"),
    "params_trainable": ("trainable", "Parameters that training changes"),
    "feature_dim": ("feature dim", "Length of the feature vector"),
    "leaks": ("leaks", "Whether the split tears neighbours apart, so that the test images resemble training images"),
    "memory_gib": ("memory (GiB)", "Peak memory: the device's where there is one, else the process's"),
    "seeds": ("seeds", "Runs in this row, alike but for their seed; values are their mean ± sample standard deviation"),
    "oa": ("OA", "Overall accuracy: share of the test samples that are classified right"),
    "aa": ("AA", "Average accuracy: mean over classes of the share classified right"),
    "kappa": ("kappa", "Cohen's kappa: agreement beyond chance, 1 = perfect"),
    "f1_macro": ("F1 macro", "F1, mean over classes"),
    "f1_micro": ("F1 micro", "F1 over all labels together"),
    "map_macro": ("mAP macro", "Average precision, mean over classes"),
    "map_micro": ("mAP micro", "Average precision over all labels together"),
    "miou_union": ("mIoU union", "mIoU that also counts classes that are only predicted"),
    "miou_all": ("mIoU all", "mIoU over all classes, present or not"),
    "miou": ("mIoU", "Intersection over union, mean over the classes with reference pixels"),
    "map": ("mAP", "Mean average precision; its publisher does not say whether over classes or over decisions"),
    "fwiou": ("fwIoU", "Intersection over union, weighted by class frequency"),
    "loss": ("loss", "Cross-entropy on the test split, in nats"),
    "seconds": ("time (s)", "The whole run, in seconds"),
    "images_per_second": ("images/s", ""),
    "source": ("source", "Who published the number"),
    "remarks": ("remarks", "Notes below the table"),
}
# Beginning or end of a column's name -> the same with the column that it speaks of.
DERIVED = {
    "published_": ("{} published", "As published: {}"),
    "delta_": ("Δ {}", "Measured − published, only where dataset, split, protocol and definition match: {}"),
    "_interval": ("{} 95 %", "Interval of the test samples, for the head as trained: {}"),
}


def heading(name: str) -> tuple[str, str]:
    """Heading of a column and the sentence that explains it, empty where the heading says it all."""
    if name in WORDS:
        return WORDS[name]
    for affix, (title, hint) in DERIVED.items():
        base_name = name.removesuffix(affix) if affix.startswith("_") else name.removeprefix(affix)
        if base_name != name:
            base, meaning = heading(base_name)
            return title.format(base), hint.format(meaning or base)
    return name.replace("_", " "), ""
