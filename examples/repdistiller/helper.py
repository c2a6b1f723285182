"""What both training scripts share: options, and the accuracy on the test images."""

import argparse

import torch


def parse_option(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_t", default="resnet56")
    parser.add_argument("--model_s", default="resnet20")
    parser.add_argument("--path_t", default="runs/repdistiller/teacher.pt")
    parser.add_argument("--cache", default="cache/repdistiller")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("-r", "--gamma", type=float, default=0.1, help="weight of the labels")
    parser.add_argument("-a", "--alpha", type=float, default=0.9, help="weight of KD")
    parser.add_argument("-b", "--beta", type=float, default=1000, help="weight of attention")
    parser.add_argument("--kd_T", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def sgd(model, opt):
    return torch.optim.SGD(
        model.parameters(), opt.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )


@torch.no_grad()
def validate(loader, model):
    """Top-1 in percent."""
    model.eval()
    right = sum((model(x).argmax(1) == y).sum().item() for x, y, _ in loader)
    return 100 * right / len(loader.dataset)
