"""Distills a teacher that ran once."""

import time

import nst_cache
import nst_cache.torch
import torch
from torch import nn

from data import get_dataloaders
from helper import parse_option, sgd, validate
from losses import Attention, DistillKL
from models import model_dict


def load_cache(opt):
    nst_cache.run(
        "extract", opt.path_t.rsplit(".", 1)[0] + ".onnx", data="fashion-mnist",
        output=opt.cache, preprocess="fashion-mnist", views=opt.epochs, augment="crop-flip",
        logits="logits", tap=["stage1", "stage2", "stage3"], keep="attention",
    )  # fmt: skip
    return nst_cache.torch.Dataset(opt.cache)


class Distiller:
    """The networks, the losses and the optimizer of a run."""

    def __init__(self, opt):
        torch.manual_seed(opt.seed)
        self.opt = opt
        _, self.test_loader = get_dataloaders(opt.batch_size, opt.num_workers)
        dataset = load_cache(opt)
        order = nst_cache.torch.ChunkShuffle(dataset, opt.batch_size, opt.seed, drop_last=True)
        self.train_loader = torch.utils.data.DataLoader(
            dataset, batch_sampler=order, num_workers=opt.num_workers
        )
        self.normalize = nst_cache.torch.Normalize(dataset.cache)
        self.model_s = model_dict[opt.model_s]()
        self.criterion_cls = nn.CrossEntropyLoss()
        self.criterion_div = DistillKL(opt.kd_T)
        self.criterion_kd = Attention()
        self.optimizer = sgd(self.model_s, opt)
        steps = opt.epochs * len(self.train_loader)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def step(self, data):
        """One batch: forward, losses, backward, update. Returns the loss."""
        opt = self.opt
        input, target = self.normalize(data["input"]), data["label"]
        self.model_s.train()
        feat_s, logit_s = self.model_s(input, is_feat=True)
        feat_t, logit_t = data["taps"].values(), data["logits"]
        loss_cls = self.criterion_cls(logit_s, target)
        loss_div = self.criterion_div(logit_s, logit_t)
        loss_kd = sum(self.criterion_kd(feat_s, feat_t))
        loss = opt.gamma * loss_cls + opt.alpha * loss_div + opt.beta * loss_kd
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.item()


def main():
    opt = parse_option()
    run = Distiller(opt)
    for epoch in range(opt.epochs):
        start = time.time()
        losses = [run.step(data) for data in run.train_loader]
        accuracy = validate(run.test_loader, run.model_s)
        seconds, loss = time.time() - start, sum(losses) / len(losses)
        print(f"epoch {epoch}: loss {loss:.3f}, test {accuracy:.2f} %, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
