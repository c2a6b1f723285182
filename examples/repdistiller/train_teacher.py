"""Trains the teacher on labels, and exports it with its stages as outputs."""

import time
from pathlib import Path

import torch
import torch.nn.functional as F

from data import get_dataloaders
from helper import parse_option, sgd, validate
from models import model_dict


class WithStages(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        feats, logits = self.model(x, is_feat=True)
        return logits, *feats


def export(model, path):
    """An ONNX file of any batch size, with the outputs logits, stage1, stage2 and stage3."""
    torch.onnx.export(
        WithStages(model).eval(),
        (torch.zeros(2, 1, 28, 28),),
        path,
        input_names=["input"],
        output_names=["logits", "stage1", "stage2", "stage3"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def main():
    opt = parse_option()
    torch.manual_seed(opt.seed)
    train_loader, test_loader = get_dataloaders(opt.batch_size, opt.num_workers)
    model = model_dict[opt.model_t]()
    optimizer = sgd(model, opt)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, opt.epochs * len(train_loader))
    for epoch in range(opt.epochs):
        start = time.time()
        model.train()
        for x, y, _ in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
        accuracy = validate(test_loader, model)
        print(f"epoch {epoch}: test {accuracy:.2f} %, {time.time() - start:.0f} s", flush=True)
    path = Path(opt.path_t)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict()}, path)
    export(model, path.with_suffix(".onnx"))


if __name__ == "__main__":
    main()
