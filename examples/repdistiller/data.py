"""The repository's part of Fashion-MNIST (Zalando SE, MIT): 12,000 and 2,000 images of 28x28."""

import gzip
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parents[2] / "src" / "data" / "fashion-mnist"
MEAN, STD = 0.286, 0.353


def read(name):
    """An IDX file of bytes: two zeros, the type, the number of axes, their sizes, the values."""
    data = gzip.decompress((FOLDER / name).read_bytes())
    axes = data[3]
    shape = np.frombuffer(data, ">u4", axes, 4).astype(int)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    return torch.from_numpy(values.reshape(shape).copy())


class FashionMNIST(torch.utils.data.Dataset):
    """(image [1, 28, 28], label, index), cropped and mirrored at random for training."""

    def __init__(self, train):
        name = "train" if train else "t10k"
        self.images = read(f"{name}-images-idx3-ubyte.gz").float()[:, None] / 255
        self.labels = read(f"{name}-labels-idx1-ubyte.gz").long()
        self.train = train

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index]
        if self.train:
            top, left = torch.randint(7, (2,)).tolist()
            padded = torch.full((1, 34, 34), MEAN)
            padded[:, 3:31, 3:31] = image
            image = padded[:, top : top + 28, left : left + 28]
            if torch.rand(()) < 0.5:
                image = image.flip(2)
        return (image - MEAN) / STD, self.labels[index], index


def get_dataloaders(batch_size, num_workers):
    """Shuffled training batches, and the test images in their order."""
    train = torch.utils.data.DataLoader(
        FashionMNIST(True), batch_size, shuffle=True, num_workers=num_workers, drop_last=True
    )
    return train, torch.utils.data.DataLoader(FashionMNIST(False), 500)
