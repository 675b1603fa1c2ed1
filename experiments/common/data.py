"""Real data, divided by fields over parties: bundled with scikit-learn, or from an `.npz` file.

A file holds `x_train`, `y_train`, `x_test`, `y_test`. Images and volumes are uint8, signals
[record, time, channel] with up to four channels, tables float32 with NaN where a value is
missing. A table may say how its columns divide over parties (`vertical_group`, `group_names`),
what they are called (`feature_names`), and which are codes (`is_categorical`).

Every data set has two tasks: the one it was collected for, and a second for the configuration
that trains two. Whatever is fitted to prepare a field (medians, means, codes) is fitted by its
owner, on training records only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

BUNDLED = ("breast_cancer", "digits")
# The measurements of a nucleus that say how big it is; the others say its shape.
SIZE = ("radius", "perimeter", "area")
# In the Pima records nobody has a 0 there.
ZERO_IS_MISSING = ("glucose", "blood_pressure", "skin_thickness", "insulin", "bmi")
CATEGORIES = 20  # of a column of codes; the rarer ones are one category
CHANNELS = 4  # a last axis up to this long holds channels, a longer one is space

Arrays = dict[str, np.ndarray]


class Data(NamedTuple):
    """A data set, by fields.

    Attributes:
        name: for tables, figures and file names.
        train: every field, and the labels of every task, [record, ...].
        test: the same.
        owners: the party that holds each field, where they are divided.
        client: the party that holds them all, where they are not.
        tasks: number of classes, by name of the labels; the first is what the data was collected
            for.
        second: in words, what the second task is.
    """

    name: str
    train: Arrays
    test: Arrays
    owners: Mapping[str, str]
    client: str
    tasks: Mapping[str, int]
    second: str


def load(name: str, limit: int | None = None, seed: int = 0) -> Data:
    """The data set `name`, one of `BUNDLED` or the path of an `.npz` file, with at most `limit`
    records in each part.

    Raises:
        ValueError: if there is no such data set, or the file does not hold one.
    """
    data = (
        {"breast_cancer": breast_cancer, "digits": digits}[name](seed)
        if name in BUNDLED
        else archive(name)
    )
    rng = np.random.default_rng(seed)
    return data._replace(
        train=sample(data.train, limit, rng), test=sample(data.test, limit, rng)
    )


def sample(arrays: Arrays, limit: int | None, rng: np.random.Generator) -> Arrays:
    count = len(next(iter(arrays.values())))
    if limit is None or count <= limit:
        return arrays
    kept = np.sort(rng.choice(count, limit, replace=False))
    return {name: x[kept] for name, x in arrays.items()}


def breast_cancer(seed: int) -> Data:
    """Nuclei in 569 fine needle aspirates (Street et al. 1993): one lab measures their size,
    another their shape.

    The second task is whether `mean texture` lies above its median; that column is no input.
    """
    bunch = load_breast_cancer()
    names = list(bunch.feature_names)
    groups = {"size": [], "shape": []}
    for i, name in enumerate(names):
        if name != "mean texture":
            groups["size" if any(word in name for word in SIZE) else "shape"].append(i)
    x, x_test, y, y_test = train_test_split(
        bunch.data,
        1 - bunch.target,
        test_size=0.25,
        stratify=bunch.target,
        random_state=seed,
    )
    train, test = tables(x, x_test, groups, np.zeros(len(names), bool))
    second = above_median(
        x[:, names.index("mean texture")], x_test[:, names.index("mean texture")]
    )
    return assemble(
        "breast_cancer",
        train,
        test,
        {"malignant": (y, y_test), "coarse": second},
        "mean texture above its median, not an input",
        owners={"size": "size_lab", "shape": "shape_lab"},
        client="lab",
    )


def digits(seed: int) -> Data:
    """1797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998): one clinic has the left
    half, one the right.
    """
    bunch = load_digits()
    x, x_test, y, y_test = train_test_split(
        (bunch.images / 16).astype(np.float32)[..., None],
        bunch.target,
        test_size=0.25,
        stratify=bunch.target,
        random_state=seed,
    )
    labels = {"digit": (y, y_test), "high": (y >= 5, y_test >= 5)}
    owners = {"left": "left_clinic", "right": "right_clinic"}
    return assemble(
        "digits",
        halves(x),
        halves(x_test),
        labels,
        "the digit is 5 or more",
        owners=owners,
        client="clinic",
    )


def archive(path: str) -> Data:
    """The data of an `.npz` file.

    Raises:
        ValueError: if there is no such file, or it lacks an array.
    """
    file = Path(path)
    if not file.is_file() or file.suffix != ".npz":
        known = ", ".join(BUNDLED)
        raise ValueError(
            f"`data` must be one of {known} or the path of an .npz file, got {path!r}."
        )
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    missing = {"x_train", "y_train", "x_test", "y_test"} - arrays.keys()
    if missing:
        raise ValueError(f"{file.name} lacks {', '.join(sorted(missing))}.")
    if arrays["x_train"].ndim == 2:
        train, test, high, second = archived_table(arrays)
    else:
        train, test, high, second = archived_space(arrays)
    labels = {"class": (arrays["y_train"], arrays["y_test"]), "high": high}
    owners = {field: f"client_{i}" for i, field in enumerate(train, start=1)}
    return assemble(
        file.stem, train, test, labels, second, owners=owners, client="client"
    )


Archived = tuple[Arrays, Arrays, tuple[np.ndarray, np.ndarray], str]
"""Fields for training and for testing, labels of the second task, and what that task is."""


def archived_table(arrays: Arrays) -> Archived:
    """A table, its columns divided as the file says, or in two."""
    x, x_test = arrays["x_train"], arrays["x_test"]
    count = x.shape[1]
    default = [f"column{i}" for i in range(count)]
    names = [str(name) for name in arrays.get("feature_names", default)]
    codes = arrays.get("is_categorical", np.zeros(count, bool))
    if set(ZERO_IS_MISSING) <= set(names):
        zero = np.isin(names, ZERO_IS_MISSING)
        x = np.where(zero & (x == 0), np.nan, x)
        x_test = np.where(zero & (x_test == 0), np.nan, x_test)

    # The second task asks for one column, which is then no input: the first of numbers that is
    # known for every record.
    whole = [not codes[i] and not np.isnan(x[:, i]).any() for i in range(count)]
    out = whole.index(True) if any(whole) else 0
    group = arrays.get("vertical_group", np.arange(count) * 2 // count)
    parts = arrays.get("group_names", [f"part{g}" for g in range(group.max() + 1)])
    columns = {}
    for g, name in enumerate(parts):
        own = [i for i in range(count) if group[i] == g and i != out]
        # A party whose only column was taken out has nothing to bring.
        if own:
            columns[str(name)] = own
    train, test = tables(x, x_test, columns, codes)
    high = above_median(x[:, out], x_test[:, out])
    return train, test, high, f"{names[out]} above its median, not an input"


def archived_space(arrays: Arrays) -> Archived:
    """Images, volumes or signals, divided in two: by halves of space, or by leads."""
    y, y_test = arrays["y_train"], arrays["y_test"]
    x, x_test = scaled(arrays["x_train"], arrays["x_test"])
    divide = leads if x.ndim == 3 else halves
    count = int(y.max()) + 1
    if count > 2:
        high = 2 * y >= count, 2 * y_test >= count
        second = "the class is in the upper half"
    else:
        # Of two classes the upper half would be the first task again.
        axes = tuple(range(1, x.ndim))
        high = above_median(x.mean(axis=axes), x_test.mean(axis=axes))
        second = "mean intensity above its median"
    return divide(x), divide(x_test), high, second


def assemble(
    name: str,
    train: Arrays,
    test: Arrays,
    labels: Mapping[str, Sequence],
    second: str,
    *,
    owners: Mapping[str, str],
    client: str,
) -> Data:
    tasks = {
        task: int(max(y.max(), y_test.max())) + 1
        for task, (y, y_test) in labels.items()
    }
    train = train | {task: y.astype(np.int32) for task, (y, _) in labels.items()}
    test = test | {
        task: y_test.astype(np.int32) for task, (_, y_test) in labels.items()
    }
    return Data(name, train, test, owners, client, tasks, second)


def tables(
    x: np.ndarray,
    x_test: np.ndarray,
    groups: Mapping[str, list[int]],
    codes: np.ndarray,
) -> tuple[Arrays, Arrays]:
    """Each group of columns as a field, prepared by its owner alone: imputed and standardised, or
    one column per code.
    """
    train, test = {}, {}
    for name, columns in groups.items():
        numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        choices = OneHotEncoder(
            max_categories=CATEGORIES, handle_unknown="ignore", sparse_output=False
        )
        prepare = make_column_transformer(
            (numbers, [c for c in columns if not codes[c]]),
            (choices, [c for c in columns if codes[c]]),
        )
        train[name] = prepare.fit_transform(x).astype(np.float32)
        test[name] = prepare.transform(x_test).astype(np.float32)
    return train, test


def above_median(
    column: np.ndarray, column_test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return column > np.median(column), column_test > np.median(column)


def scaled(x: np.ndarray, x_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float32 with a channel axis: bytes as fractions of 255, other numbers standardised."""
    if x.shape[-1] > CHANNELS:
        x, x_test = x[..., None], x_test[..., None]
    if x.dtype == np.uint8:
        return x.astype(np.float32) / 255, x_test.astype(np.float32) / 255
    # By channel: the leads of a signal are measured by electrodes of their own.
    channels = x.shape[-1]
    scale = StandardScaler().fit(x.reshape(-1, channels))

    def standardised(part: np.ndarray) -> np.ndarray:
        flat = scale.transform(part.reshape(-1, channels))
        return flat.reshape(part.shape).astype(np.float32)

    return standardised(x), standardised(x_test)


def halves(x: np.ndarray) -> Arrays:
    """The two halves of an image or a volume, along its last axis in space."""
    middle = x.shape[-2] // 2
    return {"left": x[..., :middle, :], "right": x[..., middle:, :]}


def leads(x: np.ndarray) -> Arrays:
    """Every channel of a signal as a field of its own."""
    return {f"lead{i + 1}": x[..., i : i + 1] for i in range(x.shape[-1])}
