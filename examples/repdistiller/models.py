"""CIFAR-style residual networks (He et al. 2016, 4.2) for images of one channel."""

import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """conv-bn-relu-conv-bn beside a shortcut, relu after their sum."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-(6n+2) with stages of 16, 32 and 64 channels.

    `model(x, is_feat=True)` is ([stage1, stage2, stage3], logits): maps [N, C, H, W] and [N, 10].
    """

    def __init__(self, depth, classes=10):
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        assert blocks and not rest, f"depth: expected 6n+2, found {depth}"
        self.conv = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        stages, inputs = [], 16
        for stride, outputs in ((1, 16), (2, 32), (2, 64)):
            stage = [Block(inputs, outputs, stride)]
            stage += [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*stage))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.fc = nn.Linear(64, classes)

    def forward(self, x, is_feat=False):
        x = F.relu(self.bn(self.conv(x)))
        feats = []
        for stage in self.stages:
            x = stage(x)
            feats.append(x)
        logits = self.fc(x.mean((2, 3)))
        return (feats, logits) if is_feat else logits


model_dict = {f"resnet{depth}": lambda depth=depth: ResNet(depth) for depth in (8, 20, 56)}
