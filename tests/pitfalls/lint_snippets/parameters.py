"""Weights."""

SNIPPETS = {
    "best-weights-not-copied": (
        [
            """
best = 0
for epoch in range(10):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    accuracy = evaluate(model, val_loader)
    if accuracy > best:
        best = accuracy
        best_weights = model.state_dict()  # <<
model.load_state_dict(best_weights)
""",
            """
for epoch in range(10):
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.step()
    if error < lowest:
        lowest = error
        best_net = net  # <<
""",
        ],
        [
            """
import copy

best = 0
for epoch in range(10):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    accuracy = evaluate(model, val_loader)
    if accuracy > best:
        best = accuracy
        best_weights = copy.deepcopy(model.state_dict())
model.load_state_dict(best_weights)
""",
            """
for epoch in range(10):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    if error < lowest:
        lowest = error
        best_weights = model.state_dict()
        torch.save(best_weights, "best.pt")
""",
        ],
    ),
    "layer-replaced-behind-the-optimizer": (
        [
            """
from torchvision import models

model = models.resnet18(weights="DEFAULT")
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
model.fc = nn.Linear(512, 2)  # <<
""",
            """
def prepare(model, classes):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.classifier[6] = nn.Linear(4096, classes)  # <<
    return optimizer
""",
            """
net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
optimizer = torch.optim.Adam(net[2].parameters(), lr=0.01)
net[2] = nn.Linear(32, 10)  # <<
""",
        ],
        [
            """
from torchvision import models

model = models.resnet18(weights="DEFAULT")
model.fc = nn.Linear(512, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
""",
            """
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
model.dropout = nn.Dropout(0.1)
model.head = nn.Linear(8, 2)
optimizer.add_param_group({"params": model.head.parameters()})
""",
            """
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
model = make_another()
model.fc = nn.Linear(512, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
""",
        ],
    ),
    "leaf-changed-in-place": (
        [
            """
w = torch.zeros(3, requires_grad=True)
loss = (w * x).sum()
loss.backward()
w -= 0.1 * w.grad  # <<
""",
            """
def start():
    delta = torch.rand(3, 8, 8, requires_grad=True)
    delta.mul_(0.1)  # <<
    return delta
""",
        ],
        [
            """
w = torch.zeros(3, requires_grad=True)
(w * x).sum().backward()
with torch.no_grad():
    w -= 0.1 * w.grad
""",
            """
w = torch.zeros(3)
w += 1
""",
        ],
    ),
    "leaf-replaced-by-its-update": (
        [
            """
w = torch.zeros(3, requires_grad=True)
for _ in range(10):
    ((w * x).sum() - y).pow(2).backward()
    w = w - 0.1 * w.grad  # <<
""",
            """
def fit(x, y):
    slope = torch.randn(1, requires_grad=True)
    for step in range(100):
        loss = (slope * x - y).pow(2).mean()
        loss.backward()
        slope = slope - 0.01 * slope.grad  # <<
    return slope
""",
        ],
        [
            """
w = torch.zeros(3, requires_grad=True)
for _ in range(10):
    ((w * x).sum() - y).pow(2).backward()
    with torch.no_grad():
        w -= 0.1 * w.grad
    w.grad = None
""",
            """
w = torch.zeros(3, requires_grad=True)
for _ in range(10):
    ((w * x).sum() - y).pow(2).backward()
    w = (w - 0.1 * w.grad).detach().requires_grad_()
""",
        ],
    ),
    "misspelled-requires-grad": (
        [
            """
for p in model.parameters():
    p.require_grad = False  # <<
""",
            """
model.features.requires_gradient = False  # <<
""",
        ],
        [
            """
for p in model.parameters():
    p.requires_grad = False
""",
            """
class Options:
    def __init__(self):
        self.require_grad = True
""",
        ],
    ),
    "downloaded-pickle-run": (
        [
            """
from huggingface_hub import hf_hub_download

path = hf_hub_download("somebody/model", "model.pt")
model = torch.load(path, weights_only=False)  # <<
""",
            """
from urllib.request import urlretrieve

urlretrieve(url, "weights.pt")
file = "model.pt"
urlretrieve(url, file)
model.load_state_dict(torch.load(file, weights_only=False))  # <<
other = torch.hub.load_state_dict_from_url(url, weights_only=False)  # <<
""",
        ],
        [
            """
from huggingface_hub import hf_hub_download

weights = torch.load(hf_hub_download("somebody/model", "model.pt"), weights_only=True)
""",
            """
torch.save(state, path)
state = torch.load(path, weights_only=False)  # one's own
""",
        ],
    ),
}
