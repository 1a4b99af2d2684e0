"""What PyTorch makes of the same networks: the expectations in the files beside this script.

    SORDINO_GOLDEN=tests/golden/lab cargo test --release --features lab write_the_beginnings -- --ignored
    python tests/golden/lab/make.py tests/golden/lab/*.safetensors      # torch, numpy and safetensors, any version

The first command writes for each case the rows, the labels, the initial weights and the recipes; this script adds, in
f64 and from layers of torch's own: the logits while training, the gradients of the mean cross-entropy, and for each
recipe the weights and running statistics after its steps and the logits in evaluation then.
"""

import json
import math
import sys

import numpy
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional

torch.set_default_dtype(torch.float64)


def norm(kind, channels):
    groups = math.gcd(32, channels)
    return {"none": nn.Identity, "batch": nn.BatchNorm2d, "group": lambda n: nn.GroupNorm(groups, n)}[kind](channels)


def activation(kind):
    return {"relu": nn.ReLU, "tanh": nn.Tanh}[kind]()


def head(inputs, hidden, kind, classes):
    layers = [nn.Flatten()]
    for units in hidden:
        layers += [nn.Linear(inputs, units), activation(kind)]
        inputs = units
    return layers + [nn.Linear(inputs, classes)]


def cnn(config, shape, classes):
    a, b = config["channels"]
    features = b * (shape[1] // 4) * (shape[2] // 4)
    convolutions = [
        nn.Conv2d(shape[0], a, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    ]
    return nn.Sequential(*convolutions, *head(features, [config["hidden"]], "relu", classes))


def mlp(config, shape, classes):
    return nn.Sequential(*head(math.prod(shape), config["hidden"], config.get("activation", "relu"), classes))


def convnet(config, shape, classes):
    inputs, (_, height, width), layers, side = shape[0], shape, [], config["side"]
    for outputs in config["channels"]:
        layers += [nn.Conv2d(inputs, outputs, side, padding=side // 2), norm(config["norm"], outputs)]
        layers += [activation(config["activation"]), nn.MaxPool2d(2)]
        inputs, height, width = outputs, height // 2, width // 2
    return nn.Sequential(*layers, *head(inputs * height * width, config["hidden"], config["activation"], classes))


class Bottleneck(nn.Module):
    def __init__(self, inputs, growth, kind):
        super().__init__()
        self.norm1, self.conv1 = norm(kind, inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = norm(kind, 4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, rows):
        new = self.conv1(functional.relu(self.norm1(rows)))
        return torch.cat([rows, self.conv2(functional.relu(self.norm2(new)))], 1)


def densenet(config, shape, classes):
    growth, kind = config["growth"], config["norm"]
    layers, channels = [nn.Conv2d(shape[0], 2 * growth, 3, padding=1, bias=False)], 2 * growth
    for block in range(3):
        for _ in range((config["depth"] - 4) // 6):
            layers.append(Bottleneck(channels, growth, kind))
            channels += growth
        layers += [norm(kind, channels), nn.ReLU()]
        if block < 2:
            kept = int(channels * config["compression"])
            layers += [nn.Conv2d(channels, kept, 1, bias=False), nn.AvgPool2d(2)]
            channels = kept
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, kind):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(kind, outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(kind, outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(kind, outputs))

    def forward(self, rows):
        new = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(rows)))))
        return functional.relu(new + self.shortcut(rows))


def resnet(config, shape, classes):
    inputs, kind = config["width"], config["norm"]
    layers = [nn.Conv2d(shape[0], inputs, 3, 1, 1, bias=False), norm(kind, inputs), nn.ReLU()]
    for stage, blocks in enumerate(config["blocks"]):
        outputs = config["width"] << stage
        for block in range(blocks):
            layers.append(BasicBlock(inputs, outputs, 2 if stage > 0 and block == 0 else 1, kind))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, rows):
        return rows + self.inner(rows)


def resnet9(config, shape, classes):
    width, kind = config["width"], config["norm"]

    def block(inputs, outputs):
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), norm(kind, outputs), nn.ReLU()]

    def residual(channels):
        return Residual(nn.Sequential(*block(channels, channels), *block(channels, channels)))

    layers = block(shape[0], width)
    layers += [*block(width, 2 * width), nn.MaxPool2d(2), residual(2 * width)]
    layers += [*block(2 * width, 4 * width), nn.MaxPool2d(2)]
    layers += [*block(4 * width, 8 * width), nn.MaxPool2d(2), residual(8 * width)]
    left = shape[1] // 8
    return nn.Sequential(*layers, nn.MaxPool2d(left), nn.Flatten(), nn.Linear(8 * width, classes))


NETWORKS = {"cnn": cnn, "mlp": mlp, "convnet": convnet, "densenet": densenet, "resnet": resnet, "resnet9": resnet9}


def arrays(network):
    """The arrays by the names of the project: numbered by kind, in the order of the layers; matrices transposed."""
    found, counts = {}, {"kernels": 0, "matrices": 0, "vectors": 0, "running": 0}

    def name(kind, array, transposed=False):
        found[f"{kind}.{counts[kind]}"] = (array, transposed)
        counts[kind] += 1

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            name("kernels", layer.weight)
            if layer.bias is not None:
                name("vectors", layer.bias)
        elif isinstance(layer, nn.Linear):
            name("matrices", layer.weight, True)
            name("vectors", layer.bias)
        elif isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
            name("vectors", layer.weight)
            name("vectors", layer.bias)
            if isinstance(layer, nn.BatchNorm2d):
                name("running", layer.running_mean)
                name("running", layer.running_var)
    return found


def plain(tensor, transposed):
    return numpy.ascontiguousarray((tensor.T if transposed else tensor).detach().numpy().astype(numpy.float32))


def network_of(recipe, given):
    network = NETWORKS[recipe["network"]["kind"]](recipe["network"], given["rows"].shape[1:], int(given["n_classes"][0]))
    named = arrays(network)
    assert {f"initial.{name}" for name in named} == {name for name in given if name.startswith("initial.")}
    with torch.no_grad():
        for name, (array, transposed) in named.items():
            value = torch.from_numpy(given[f"initial.{name}"].astype(numpy.float64))
            array.copy_(value.T if transposed else value)
    return network, named


def optimizer_of(recipe, network):
    kind = recipe.get("optimizer", {"kind": "adam"})
    common = {"lr": recipe["learning_rate"], "weight_decay": recipe["weight_decay"]}
    if kind["kind"] == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=kind["momentum"], **common)
    return torch.optim.Adam(network.parameters(), **common)


def complete(path):
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        given = {name: file.get_tensor(name) for name in file.keys()}
    given = {name: value for name, value in given.items() if name.split(".")[0] in ("initial", "rows", "labels", "n_classes")}
    recipes = json.loads(metadata["recipes"])
    rows = torch.from_numpy(given["rows"].astype(numpy.float64) / 255)
    labels = torch.from_numpy(given["labels"].astype(numpy.int64))
    out = dict(given)
    for title, recipe in recipes.items():
        network, named = network_of(recipe, given)
        optimizer = optimizer_of(recipe, network)
        for step in range(recipe["epochs"]):
            optimizer.zero_grad()
            logits = network(rows)
            functional.cross_entropy(logits, labels).backward()
            if step == 0:
                out["logits"] = plain(logits, False)
                for name, (array, transposed) in named.items():
                    if array.grad is not None:
                        out[f"gradient.{name}"] = plain(array.grad, transposed)
            optimizer.step()
        network.eval()
        out[f"{title}.logits"] = plain(network(rows), False)
        for name, (array, transposed) in named.items():
            out[f"{title}.{name}"] = plain(array, transposed)
    save_file(out, path, metadata)
    print(path, len(out), "arrays")


for path in sys.argv[1:]:
    complete(path)
