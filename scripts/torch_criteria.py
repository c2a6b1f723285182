#!/usr/bin/env python3
"""One distillation criterion in PyTorch on the CPU: time and memory of its loss, forward, and of
its gradients, for the student's tensors and for what it learns, from the very tensors and weights
that `cargo bench --bench peers -- criteria NAME --save FILE` writes.

    torch_criteria.py at.safetensors --threads 1 --steps 10

Each is written from its paper's formula in the way that PyTorch code usually takes, which is
broadcasting where that is the custom: NST's products of channels as [batch, channels, channels,
positions], FSP's likewise, RKD's differences as [batch, batch, width], CRD's memories gathered as
[batch, negatives + 1, width]. `--form product` takes matrix products for NST and FSP in place of
that. CRD's negatives are drawn outside the timed step, MGD's masks within it. Afterwards the loss
and the gradients are compared with those of the file, in float64 (float32 for broadcast forms,
which would not fit); a difference beyond rounding is an error.
"""

import argparse
import json
import os
import statistics
import sys
import time

import numpy
import torch
import torch.nn.functional as F

BROADCAST = ("nst-poly", "nst-gauss", "fsp")
# by float64 and by float32; CRD draws its own negatives, 16384 a sample, and MGD its own masks, so
# that their losses agree as means of so many do
TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-3}
DRAWN = ("crd", "mgd")
DRAWN_TOLERANCE = 0.02


def memory_mb(key):
    """`VmRSS`, resident memory now, or `VmHWM`, its peak."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(key + ":"))


class Case:
    """What the file holds: settings, tensors, weights by layer, and the other side's results."""

    def __init__(self, path):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            start = file.tell()
            self.about = json.loads(header.pop("__metadata__")["criterion"])
            self.name, self.settings, self.weight = (
                self.about["name"],
                self.about["settings"],
                self.about["weight"],
            )
            tensors = {}
            for name, entry in header.items():
                first, end = entry["data_offsets"]
                file.seek(start + first)
                values = numpy.fromfile(file, dtype="<f4", count=(end - first) // 4)
                tensors[name] = torch.from_numpy(values).reshape(entry["shape"])
        self.expected = {
            name.removeprefix("gradient/"): t
            for name, t in tensors.items()
            if name.startswith("gradient/")
        }
        numbered = lambda what: [
            tensors[f"{what}/{i}"] for i in range(9) if f"{what}/{i}" in tensors
        ]
        self.student, self.teacher, self.margins = (
            numbered("student"),
            numbered("teacher"),
            numbered("margins"),
        )
        self.labels = tensors["labels"].long()
        self.layers = {}
        for name, tensor in tensors.items():
            if name.startswith("criterion/"):
                layer, weight = name.split("/", 3)[2:]
                self.layers.setdefault(int(layer), {})[weight] = tensor
        self.draw(0)
        self.require_gradients()

    def require_gradients(self):
        """Marks what is differentiated by; gives it by the file's names."""
        self.leaves = {f"student/{i}": s.requires_grad_() for i, s in enumerate(self.student)}
        for layer, weights in self.layers.items():
            for name, weight in weights.items():
                if not name.startswith(("paraphraser.", "memory.")):
                    self.leaves[f"criterion/{self.name}/{layer}/{name}"] = weight.requires_grad_()

    def to(self, dtype):
        convert = lambda tensor: tensor.detach().to(dtype)
        self.student, self.teacher, self.margins = (
            [convert(t) for t in ts] for ts in (self.student, self.teacher, self.margins)
        )
        self.layers = {
            layer: {name: convert(w) for name, w in weights.items()}
            for layer, weights in self.layers.items()
        }
        self.require_gradients()

    def draw(self, seed):
        """CRD's indices: each sample, then its negatives."""
        if self.name == "crd":
            batch, samples = len(self.student[0]), len(self.layers[0]["memory.student"])
            others = torch.randint(
                samples,
                (batch, self.settings["negatives"]),
                generator=torch.Generator().manual_seed(seed),
            )
            self.indices = torch.cat([torch.arange(batch).unsqueeze(1), others], 1)


def ce(c):
    return F.cross_entropy(c.student[0], c.labels)


def softened(s, t, temperature):
    """KL of the softmaxes of the last axis, the mean over the others."""
    p, q = F.softmax(t / temperature, -1), F.log_softmax(s / temperature, -1)
    return F.kl_div(q, p, reduction="sum") / (s.numel() / s.shape[-1])


def kd(c):
    temperature = c.settings["temperature"]
    return temperature**2 * softened(c.student[0], c.teacher[0], temperature)


def dkd(c):
    temperature, (s, t) = c.settings["temperature"], (c.student[0], c.teacher[0])
    own = F.one_hot(c.labels, s.shape[1]).to(s.dtype)
    split = lambda p: torch.stack([(p * own).sum(1), (p * (1 - own)).sum(1)], 1)
    target = F.kl_div(
        split(F.softmax(s / temperature, 1)).log(),
        split(F.softmax(t / temperature, 1)),
        reduction="sum",
    )
    others = F.kl_div(
        F.log_softmax(s / temperature - 1000 * own, 1),
        F.softmax(t / temperature - 1000 * own, 1),
        reduction="sum",
    )
    return (c.settings["alpha"] * target + c.settings["beta"] * others) * temperature**2 / len(s)


def dist(c):
    tau, s, t = c.settings["tau"], c.student[0], c.teacher[0]
    p, q = F.softmax(s / tau, 1), F.softmax(t / tau, 1)

    def apart(a, b):
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return 1 - ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()

    return tau**2 * (c.settings["beta"] * apart(p, q) + c.settings["gamma"] * apart(p.t(), q.t()))


def channels(x):
    """[batch, channels, positions], each channel of length 1."""
    return F.normalize(x.flatten(2), dim=2)


def nst(c, kernel):
    loss = 0
    for s, t in zip(c.student, c.teacher):
        s, t = channels(s), channels(t)
        loss = (
            loss
            + kernel(t, t, s, t).mean().detach()
            + kernel(s, s, s, t).mean()
            - 2 * kernel(s, t, s, t).mean()
        )
    return loss


def nst_linear(c):
    # the mean of all products is the product of the means
    return sum(
        (channels(s).mean(1) - channels(t).mean(1)).pow(2).sum(1).mean()
        for s, t in zip(c.student, c.teacher)
    )


def nst_poly(c, form):
    degree, constant = c.settings["degree"], c.settings["constant"]
    if form == "product":
        products = lambda a, b: torch.bmm(a, b.transpose(1, 2))
    else:
        products = lambda a, b: (a.unsqueeze(1) * b.unsqueeze(2)).sum(-1)
    return nst(c, lambda a, b, *_: (products(a, b) + constant).pow(degree))


def nst_gauss(c, form):
    def apart(a, b):
        if form == "product":
            return (
                a.pow(2).sum(2).unsqueeze(2)
                + b.pow(2).sum(2).unsqueeze(1)
                - 2 * torch.bmm(a, b.transpose(1, 2))
            )
        return (a.unsqueeze(2) - b.unsqueeze(1)).pow(2).sum(-1)

    loss = 0
    for s, t in zip(c.student, c.teacher):
        s, t = channels(s), channels(t)
        across = apart(s, t)
        # sigma^2: the mean over a sample's pairs of student and teacher, without gradient
        scale = -0.5 / across.detach().mean((1, 2), keepdim=True)
        with torch.no_grad():
            among_teachers = (apart(t, t) * scale).exp().mean()
        loss = (
            loss
            + among_teachers
            + (apart(s, s) * scale).exp().mean()
            - 2 * (across * scale).exp().mean()
        )
    return loss


def norm(x, weights, name):
    return F.batch_norm(
        x, None, None, weights[name + ".weight"], weights[name + ".bias"], training=True
    )


def conv(x, weights, name, padding=0, stride=1):
    return F.conv2d(
        x, weights[name + ".weight"], weights.get(name + ".bias"), padding=padding, stride=stride
    )


def regress(x, weights, prefix=""):
    return norm(conv(x, weights, prefix + "conv"), weights, prefix + "bn")


def fitnet(c):
    return sum(
        F.mse_loss(F.relu(regress(s, c.layers[i])), t)
        for i, (s, t) in enumerate(zip(c.student, c.teacher))
    )


def attention(x, power=2):
    return F.normalize(x.pow(power).mean(1).flatten(1))


def at(c):
    return sum(
        (attention(s, c.settings["p"]) - attention(t, c.settings["p"])).pow(2).mean()
        for s, t in zip(c.student, c.teacher)
    )


def vid(c):
    loss = 0
    for i, (s, t) in enumerate(zip(c.student, c.teacher)):
        weights = c.layers[i]
        mean = conv(
            F.relu(conv(F.relu(conv(s, weights, "regressor.0")), weights, "regressor.2")),
            weights,
            "regressor.4",
        )
        variance = (torch.log(1 + torch.exp(weights["log_scale"])) + c.settings["eps"]).view(
            1, -1, 1, 1
        )
        loss = loss + torch.mean(0.5 * ((mean - t) ** 2 / variance + torch.log(variance)))
    return loss


def sp(c):
    similarity = lambda x: F.normalize(x.flatten(1) @ x.flatten(1).t())
    return sum(
        (similarity(t) - similarity(s)).pow(2).sum() / len(s) ** 2
        for s, t in zip(c.student, c.teacher)
    )


def linear(x, weights, name):
    return F.linear(x.flatten(1), weights[name + ".weight"], weights[name + ".bias"])


def cc(c):
    off = (
        linear(c.student[0], c.layers[0], "embed_s") - linear(c.teacher[0], c.layers[0], "embed_t")
    ).abs()
    return (off[:-1] * off[1:]).sum(1).mean()


def rkd(c):
    def distances(x):
        squares = x.pow(2).sum(1)
        d = (squares.unsqueeze(1) + squares.unsqueeze(0) - 2 * x @ x.t()).clamp(min=1e-12).sqrt()
        d = d * (1 - torch.eye(len(x), dtype=x.dtype))
        return d / d[d > 0].mean()

    def angles(x):
        directions = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
        return torch.bmm(directions, directions.transpose(1, 2))

    s, t = c.student[0], c.teacher[0]
    with torch.no_grad():
        d, a = distances(t), angles(t)
    return c.settings["distance"] * F.smooth_l1_loss(distances(s), d) + c.settings[
        "angle"
    ] * F.smooth_l1_loss(angles(s), a)


def pkt(c, eps=1e-7):
    def neighbourhood(x):
        x = x / (x.norm(dim=1, keepdim=True) + eps)
        kernel = (x @ x.t() + 1) / 2
        return kernel / kernel.sum(1, keepdim=True)

    q, p = neighbourhood(c.student[0]), neighbourhood(c.teacher[0])
    return torch.mean(p * torch.log((p + eps) / (q + eps)))


def crd(c, eps=1e-7):
    weights, temperature, momentum = c.layers[0], c.settings["temperature"], c.settings["momentum"]
    batch, chosen = c.indices.shape
    samples, loss = len(weights["memory.student"]), 0
    sides = [
        ("embed_s", c.student[0], "memory.teacher"),
        ("embed_t", c.teacher[0], "memory.student"),
    ]
    for name, x, memory in sides:
        f = linear(x, weights, name + ".linear")
        f = f / f.norm(dim=1, keepdim=True)
        remembered = weights[memory].index_select(0, c.indices.view(-1)).view(batch, chosen, -1)
        scores = torch.exp(torch.bmm(remembered, f.unsqueeze(2)).squeeze(2) / temperature)
        scores = scores / (scores.detach().mean() * samples)
        noise = (chosen - 1) / samples
        own, others = scores[:, 0], scores[:, 1:]
        loss = (
            loss
            - (
                (own / (own + noise + eps)).log().sum()
                + (noise / (others + noise + eps)).log().sum()
            )
            / batch
        )
    with torch.no_grad():
        rows = c.indices[:, 0]
        for name, x, memory in (
            ("embed_s", c.student[0], "memory.student"),
            ("embed_t", c.teacher[0], "memory.teacher"),
        ):
            f = F.normalize(linear(x, weights, name + ".linear"))
            weights[memory].index_copy_(
                0, rows, F.normalize(weights[memory][rows] * momentum + f * (1 - momentum))
            )
    return loss


def ab(c):
    margin, loss, last = c.settings["margin"], 0, len(c.student) - 1
    for i, (s, t) in enumerate(zip(c.student, c.teacher)):
        if f"connectors.{i}.conv.weight" in c.layers.get(0, {}):
            s = regress(s, c.layers[0], f"connectors.{i}.")
        off = (s + margin) ** 2 * ((s > -margin) & (t <= 0)).to(s.dtype)
        on = (s - margin) ** 2 * ((s <= margin) & (t > 0)).to(s.dtype)
        loss = loss + (off + on).sum() * 0.003 / len(s) / 2 ** (last - i)
    return loss


def ft(c):
    def factor(x, weights, prefix):
        for place in (0, 3, 6):
            x = conv(x, weights, f"{prefix}{place}", padding=1)
            if f"{prefix}{place + 1}.weight" in weights:
                x = norm(x, weights, f"{prefix}{place + 1}")
            x = F.leaky_relu(x, 0.1)
        return x

    loss = 0
    for i, (s, t) in enumerate(zip(c.student, c.teacher)):
        with torch.no_grad():
            t = factor(t, c.layers[i], "paraphraser.encoder.")
        s = factor(s, c.layers[i], "translator.encoder.")
        loss = (
            loss
            + (attention(s, c.settings["p1"]) - attention(t, c.settings["p1"]))
            .abs()
            .pow(c.settings["p2"])
            .mean()
        )
    return loss


def fsp(c, form):
    def flow(a, b):
        if a.shape[2] > b.shape[2]:
            a = F.adaptive_avg_pool2d(a, b.shape[2:])
        a, b = a.flatten(2), b.flatten(2)
        if form == "product":
            return torch.bmm(a, b.transpose(1, 2)) / a.shape[2]
        return (a.unsqueeze(2) * b.unsqueeze(1)).mean(-1)

    flows = lambda maps: [flow(a, b) for a, b in zip(maps, maps[1:])]
    return sum((s - t).pow(2).mean() for s, t in zip(flows(c.student), flows(c.teacher)))


def ofd(c):
    loss, last = 0, len(c.student) - 1
    for i, (s, t, margins) in enumerate(zip(c.student, c.teacher, c.margins)):
        name = f"connectors.connectors.{i}."
        r = norm(conv(s, c.layers[0], name + "0"), c.layers[0], name + "1")
        aim = torch.max(t, margins.view(1, -1, 1, 1))
        square = F.mse_loss(r, aim, reduction="none") * ((r > aim) | (aim > 0)).to(r.dtype)
        loss = loss + square.sum() / len(s) / 2 ** (last - i)
    return loss


def reviewkd(c):
    weights, loss, below = c.layers[0], 0, None
    maps = lambda tensors: [x if x.dim() == 4 else x.view(*x.shape, 1, 1) for x in tensors]
    for depth, (s, t) in enumerate(reversed(list(zip(maps(c.student), maps(c.teacher))))):
        layer = f"abfs.{depth}."
        x = norm(conv(s, weights, layer + "conv1.0"), weights, layer + "conv1.1")
        if below is not None:
            y = F.interpolate(below, s.shape[2:], mode="nearest")
            shares = torch.sigmoid(conv(torch.cat([x, y], 1), weights, layer + "att_conv.0"))
            x = x * shares[:, :1] + y * shares[:, 1:]
        if x.shape[2:] != t.shape[2:]:
            x = F.interpolate(x, t.shape[2:], mode="nearest")
        below = x
        r = norm(conv(x, weights, layer + "conv2.0", padding=1), weights, layer + "conv2.1")
        level, share, shares = F.mse_loss(r, t), 1.0, 1.0
        for size in (4, 2, 1):
            if size < r.shape[2]:
                share /= 2
                shares += share
                level = level + share * F.mse_loss(
                    F.adaptive_avg_pool2d(r, size), F.adaptive_avg_pool2d(t, size)
                )
        loss = loss + level / shares
    return loss


def gan(c):
    """The student's loss; the discriminator's own comes with it, unweighted, as a second value."""

    def judged(x, weights):
        x = F.leaky_relu(
            norm(conv(x, weights, "discriminator.0", 1, 2), weights, "discriminator.1"), 0.1
        )
        return torch.sigmoid(conv(x, weights, "discriminator.3", 1, 2))

    loss, own = 0, 0
    for i, (s, t) in enumerate(zip(c.student, c.teacher)):
        weights = c.layers[i]
        fixed = {
            name: w.detach() if name.startswith("discriminator.") else w
            for name, w in weights.items()
        }
        fake = regress(s, weights, "transfer.")
        loss = loss + (1 - judged(fake, fixed)).pow(2).mean()
        own = (
            own
            + (1 - judged(t, weights)).pow(2).mean()
            + judged(fake.detach(), weights).pow(2).mean()
        )
    return loss, own


def projected(c):
    """The pairs at the smaller size of each axis, the student's behind its projector, if any."""
    for i, (s, t) in enumerate(zip(c.student, c.teacher)):
        if s.dim() == 4 and s.shape[2:] != t.shape[2:]:
            size = [min(a, b) for a, b in zip(s.shape[2:], t.shape[2:])]
            s, t = F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size)
        if "projector.weight" in c.layers.get(i, {}):
            weight, bias = c.layers[i]["projector.weight"], c.layers[i]["projector.bias"]
            s = (
                F.conv2d(s, weight[:, :, None, None], bias)
                if s.dim() == 4
                else F.linear(s, weight, bias)
            )
        yield s, t


def mse(c):
    return sum(F.mse_loss(s, t) for s, t in projected(c))


def l1(c):
    return sum(F.l1_loss(s, t) for s, t in projected(c))


def smooth_l1(c):
    return sum(F.smooth_l1_loss(s, t, beta=c.settings["beta"]) for s, t in projected(c))


def cosine(c):
    return sum(1 - F.cosine_similarity(s, t, dim=1).mean() for s, t in projected(c))


def cwd(c):
    tau = c.settings["tau"]
    return sum(tau**2 * softened(s.flatten(2), t.flatten(2), tau) for s, t in projected(c))


def pkd(c, eps=1e-6):
    def standardize(x):
        x = x.transpose(0, 1).flatten(1)
        return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + eps)

    return sum(F.mse_loss(standardize(s), standardize(t)) / 2 for s, t in projected(c))


def mgd(c):
    loss = 0
    for i, (s, t) in enumerate(projected(c)):
        weights = c.layers[i]
        if "align.weight" in weights:
            s = conv(s, weights, "align")
        batch, channels, height, width = t.shape
        shape = (batch, 1, height, width)
        if c.settings["mask-on-channel"]:
            shape = (batch, channels, 1, 1)
        s = s * (torch.rand(shape) >= c.settings["mask-ratio"]).to(s.dtype)
        s = conv(F.relu(conv(s, weights, "generation.0", padding=1)), weights, "generation.2", 1)
        loss = loss + F.mse_loss(s, t, reduction="sum") / batch
    return loss


def kd_binary(c):
    temperature, loss = c.settings["temperature"], 0
    for s, t in projected(c):
        s, t = s / temperature, t / temperature
        for sign in (1, -1):
            p, q = F.logsigmoid(sign * t), F.logsigmoid(sign * s)
            divergence = F.kl_div(q, p, log_target=True, reduction="sum") / s.numel()
            loss = loss + temperature**2 * divergence
    return loss


def lskd(c, eps=1e-7):
    standardize = lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + eps)
    temperature = c.settings["temperature"]
    s, t = standardize(c.student[0]), standardize(c.teacher[0])
    return temperature**2 * softened(s, t, temperature)


def embedded(s, t, weights, head, temperature):
    queue = weights["memory.queue"]
    u, v = F.normalize(t.flatten(1)), F.normalize(linear(s, weights, head))
    with torch.no_grad():
        queue.copy_(torch.cat([u, queue])[: len(queue)])
    return softened(v @ queue.t(), u @ queue.t(), temperature)


def lightly_v1(c):
    head, temperature = "student_projection_head", c.settings["temperature"]
    pairs = enumerate(zip(c.student, c.teacher))
    return sum(embedded(s, t, c.layers[i], head, temperature) for i, (s, t) in pairs)


def lightly_v3(c):
    weights = c.layers[0]
    head, temperature = "student_projection_head_global", c.settings["temperature-global"]
    loss = embedded(c.student[0], c.teacher[0], weights, head, temperature)
    _, (s, t) = projected(c)
    s, t = s.flatten(2).transpose(1, 2), t.flatten(2).transpose(1, 2)
    head = "student_projection_head_local"
    v = F.normalize(F.linear(s, weights[head + ".weight"], weights[head + ".bias"]), dim=2)
    u = F.normalize(t, dim=2)
    similar = lambda x: torch.bmm(x, x.transpose(1, 2))
    local = softened(similar(v), similar(u), c.settings["temperature-local"])
    return loss + c.settings["loss-local-weight"] * local


METHODS = {
    f.__name__.replace("_", "-"): f
    for f in (
        ce,
        kd,
        dkd,
        dist,
        nst_linear,
        nst_poly,
        nst_gauss,
        fitnet,
        at,
        vid,
        sp,
        cc,
        rkd,
        pkt,
        crd,
        ab,
        ft,
        fsp,
        ofd,
        reviewkd,
        gan,
        mse,
        l1,
        smooth_l1,
        cosine,
        cwd,
        pkd,
        mgd,
        kd_binary,
        lskd,
        lightly_v1,
        lightly_v3,
    )
}


def step(case, form):
    """The loss, its gradients left in the leaves."""
    for leaf in case.leaves.values():
        leaf.grad = None
    method = METHODS[case.name]
    found = method(case, form) if case.name in BROADCAST else method(case)
    loss, own = found if isinstance(found, tuple) else (found, 0)
    (case.weight * loss + own).backward()
    return loss.item()


def differences(case, form):
    """The relative difference of the loss, and the largest of a gradient, by the tensors' norms: an
    activation at a ReLU's edge falls to one side in float32 and to the other in float64. A weight's
    gradient that is next to nothing beside the other weights' is rounding: a convolution's bias
    before batch norm has none."""
    loss = step(case, form)
    of_weights = [
        expected.norm().item()
        for name, expected in case.expected.items()
        if name.startswith("criterion/")
    ]
    difference = 0.0
    for name, leaf in case.leaves.items():
        expected, found = case.expected[name].double(), leaf.grad.double()
        floor = 1e-3 * max(of_weights) if name.startswith("criterion/") else 1e-30
        difference = max(
            difference, (found - expected).norm().item() / max(expected.norm().item(), floor)
        )
    return abs(loss - case.about["loss"]) / max(abs(case.about["loss"]), 1e-30), difference


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("case")
    p.add_argument("--form", choices=["broadcast", "product"], default="broadcast")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--warmup", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    case = Case(a.case)
    baseline, times = memory_mb("VmRSS"), []
    for i in range(a.warmup + a.steps):
        case.draw(i)
        start = time.perf_counter()
        step(case, a.form)
        if i >= a.warmup:
            times.append(1e3 * (time.perf_counter() - start))
    times.sort()
    row = dict(
        criterion=case.name,
        form=a.form,
        threads=a.threads,
        torch=torch.__version__,
        median_ms=statistics.median(times),
        p10_ms=times[len(times) // 10],
        p90_ms=times[len(times) * 9 // 10],
        baseline_mb=baseline,
        peak_rss_mb=memory_mb("VmHWM"),
    )
    # the memories of the timed steps have moved on
    case = Case(a.case)
    dtype = torch.float32 if case.name in BROADCAST and a.form == "broadcast" else torch.float64
    case.to(dtype)
    row["loss_difference"], row["gradient_difference"] = differences(case, a.form)
    json.dump(row, sys.stdout)
    tolerance = DRAWN_TOLERANCE if case.name in DRAWN else TOLERANCES[dtype]
    if row["loss_difference"] > tolerance or (
        case.name not in DRAWN and row["gradient_difference"] > 10 * tolerance
    ):
        sys.exit(
            f"{case.name}: differs from the file: loss by {row['loss_difference']:.1e}, "
            f"gradients by {row['gradient_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
