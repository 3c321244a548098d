"""Modes, layers and hooks."""

SNIPPETS = {
    "eval-missing": (
        [
            """
net = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5), nn.Linear(64, 10))
optimizer = torch.optim.Adam(net.parameters())
for step in range(500):
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.step()

def evaluate(model, x, y):
    with torch.no_grad():
        outputs = model(x)  # <<
    return (outputs.argmax(1) == y).float().mean()

print(evaluate(net, x, y))
""",
            """
model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))
for epoch in range(3):
    for x, y in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
right = 0
with torch.no_grad():
    for x, y in test_loader:
        right += (model(x).argmax(1) == y).sum().item()  # <<
""",
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x)

@torch.no_grad()
def evaluate(net, loader):
    outputs = []
    for x, y in loader:
        outputs.append(net(x))  # <<
    return torch.cat(outputs)

net = Net()
for x, y in loader:
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.step()
evaluate(net, loader)
""",
        ],
        [
            """
model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))
for x, y in train_loader:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
model.eval()
with torch.no_grad():
    for x, y in test_loader:
        right += (model(x).argmax(1) == y).sum().item()
""",
            """
model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))  # no layer has modes
for x, y in train_loader:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
with torch.no_grad():
    for x, y in test_loader:
        right += (model(x).argmax(1) == y).sum().item()
""",
            """
class Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8)

net = Net()
for x, y in train_loader:
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.step()
with torch.no_grad():
    for x, y in test_loader:
        right += (net(x).argmax(1) == y).sum().item()
""",
            """
@torch.no_grad()
def evaluate(model, loader):  # whoever calls it says in which mode
    return [model(x) for x, _ in loader]
""",
        ],
    ),
    "left-in-eval-mode": (
        [
            """
optimizer = torch.optim.Adam(model.parameters())
model.train()
for epoch in range(10):
    for x, y in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()  # <<
    with torch.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in val_loader)
""",
            """
def accuracy(network, loader):
    network.eval()  # <<
    with torch.no_grad():
        return sum((network(x).argmax(1) == y).sum().item() for x, y in loader)

def one_epoch(model, optimizer):
    for x, y in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

def main():
    net = make_network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(10):
        one_epoch(net, optimizer)
        print(accuracy(net, val_loader))
""",
        ],
        [
            """
optimizer = torch.optim.Adam(model.parameters())
for epoch in range(10):
    model.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in val_loader)
""",
            """
optimizer = torch.optim.Adam(student.parameters())
for x, y in train_loader:
    teacher.eval()
    optimizer.zero_grad()
    F.mse_loss(student(x), teacher(x)).backward()
    optimizer.step()
""",
            """
model = nn.Sequential(nn.Linear(8, 3))  # no layer has modes
optimizer = torch.optim.Adam(model.parameters())
for epoch in range(10):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    model.eval()
""",
        ],
    ),
    "outputs-kept-with-their-graphs": (
        [
            """
model.eval()
outputs = []
for x, y in test_loader:
    outputs.append(model(x))  # <<
outputs = torch.cat(outputs)
""",
            """
def predict(net, loader):
    net.eval()
    kept = []
    for x in loader:
        output = net(x)
        kept.append(output)  # <<
    return torch.cat(kept)
""",
        ],
        [
            """
model.eval()
outputs = []
with torch.inference_mode():
    for x, y in test_loader:
        outputs.append(model(x))
""",
            """
def predict(net, loader):
    net.eval()
    kept = []
    for x in loader:
        kept.append(net(x).detach())
    return torch.cat(kept)
""",
            """
def predict(net, loader):
    net.eval()
    kept = []
    for x in loader:
        kept.append(net(x))
    return torch.cat(kept)

with torch.no_grad():
    answers = predict(net, loader)
""",
        ],
    ),
    "dropout-by-train": (
        [
            """
def mc_dropout(model, x, samples):
    model.train()  # <<
    with torch.no_grad():
        outputs = torch.stack([model(x).softmax(1) for _ in range(samples)])
    return outputs.mean(0), outputs.var(0)
""",
            """
class Bayesian:
    def predict_uncertainty(self, x):
        self.net.train()  # <<
        kept = []
        for _ in range(30):
            kept.append(self.net(x))
        return torch.stack(kept).std(0)
""",
        ],
        [
            """
def mc_dropout(model, x, samples):
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    with torch.no_grad():
        outputs = torch.stack([model(x).softmax(1) for _ in range(samples)])
    return outputs.mean(0), outputs.var(0)
""",
            """
def fit_with_dropout(model, loader):
    model.train()
    losses = []
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)
""",
        ],
    ),
    "dropout-that-never-stops": (
        [
            """
class Net(nn.Module):
    def forward(self, x):
        x = F.dropout(self.one(x), 0.5)  # <<
        return self.two(x)
""",
            """
class Block(nn.Module):
    pass

class Net(Block):
    def forward(self, x):
        return F.dropout2d(x, p=0.2)  # <<
""",
        ],
        [
            """
class Net(nn.Module):
    def forward(self, x):
        x = F.dropout(self.one(x), 0.5, self.training)
        return F.dropout(self.two(x), training=self.training)
""",
            """
class Net(nn.Module):
    def forward(self, x):
        if self.training:
            x = F.dropout(x, 0.5)
        return self.two(x)
""",
        ],
    ),
    "layers-in-a-plain-list": (
        [
            """
class Net(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]  # <<
""",
            """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = []  # <<
        for _ in range(3):
            self.blocks.append(Block())
        self.heads = {"a": nn.Linear(8, 2), "b": nn.Linear(8, 3)}  # <<
""",
        ],
        [
            """
class Net(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])])
        layers = [nn.Linear(8, 8), nn.ReLU()]
        self.all = nn.Sequential(*layers)
""",
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = []
        for i in range(3):
            self.blocks.append(nn.Linear(8, 8))
        self.blocks = nn.ModuleList(self.blocks)
        self.activations = [nn.ReLU(), nn.Tanh()]
""",
        ],
    ),
    "forward-called": (
        [
            """
handle = model.register_forward_hook(keep)
output = model.forward(x)  # <<
handle.remove()
""",
            """
from torch.nn.parallel import DistributedDataParallel as DDP

model = DDP(model)
for x, y in loader:
    optimizer.zero_grad()
    F.cross_entropy(model.forward(x), y).backward()  # <<
    optimizer.step()
""",
        ],
        [
            """
handle = model.register_forward_hook(keep)
output = model(x)
handle.remove()
""",
            """
class Net(Base):
    def forward(self, x):
        return super().forward(x) + self.forward_features(x)

model.forward(x)  # makes lazy layers
model = nn.DataParallel(model)
""",
        ],
    ),
    "hook-never-removed": (
        [
            """
def features(model, x):
    kept = []
    model.layer4.register_forward_hook(lambda module, args, output: kept.append(output))  # <<
    model(x)
    return kept[0]
""",
            """
def gradients(model, x):
    for layer in model.modules():
        handle = layer.register_full_backward_hook(keep)  # <<
    model(x).sum().backward()
""",
        ],
        [
            """
def features(model, x):
    kept = []
    handle = model.layer4.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        model(x)
    finally:
        handle.remove()
    return kept[0]
""",
            """
def watch(model, names):
    return [model.get_submodule(name).register_forward_hook(keep) for name in names]

class CAM:
    def __init__(self, model):
        model.layer4.register_forward_hook(self.keep)
""",
            """
def shape_of(width):
    model = nn.Sequential(nn.Linear(width, 3))
    model[0].register_forward_hook(show)
    model(torch.zeros(1, width))
""",
        ],
    ),
    "deprecated-backward-hook": (
        [
            """
handle = layer.register_backward_hook(keep)  # <<
""",
            """
class CAM:
    def __init__(self, model):
        self.handle = model.layer4.register_backward_hook(self.keep)  # <<
""",
        ],
        [
            """
handle = layer.register_full_backward_hook(keep)
""",
            """
if hasattr(layer, "register_full_backward_hook"):
    handle = layer.register_full_backward_hook(keep)
else:
    handle = layer.register_backward_hook(keep)
""",
        ],
    ),
}
