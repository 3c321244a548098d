"""Training loops."""

SNIPPETS = {
    "zero-grad-missing": (
        [
            """
for x, y in loader:
    loss = F.cross_entropy(model(x), y)
    loss.backward()  # <<
    optimizer.step()
""",
            """
def fit(model, x, y, epochs):
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        F.mse_loss(model(x), y).backward()  # <<
        opt.step()
""",
        ],
        [
            """
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
""",
            """
def clear(optimizer):
    optimizer.zero_grad(set_to_none=True)

for x, y in loader:
    clear(optimizer)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
""",
            """
for step, (x, y) in enumerate(loader):
    (F.cross_entropy(model(x), y) / 4).backward()
    if step % 4 == 3:
        optimizer.step()
        for p in model.parameters():
            p.grad = None
""",
            """
for batch in loader:  # an engine has its own way
    loss = engine(batch)
    engine.backward(loss)
    engine.step()
""",
        ],
    ),
    "zero-grad-before-step": (
        [
            """
for x, y in loader:
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.zero_grad()  # <<
    optimizer.step()
""",
            """
optimizer = torch.optim.Adam(net.parameters())
for epoch in range(10):
    F.mse_loss(net(x), y).backward()
    print(epoch)
    optimizer.zero_grad(set_to_none=True)  # <<
    optimizer.step()
""",
        ],
        [
            """
for x, y in loader:
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
            """
for x, y in loader:
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
""",
        ],
    ),
    "clipping-out-of-order": (
        [
            """
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # <<
    loss.backward()
    optimizer.step()
""",
            """
from torch.nn.utils import clip_grad_value_

for x, y in loader:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    clip_grad_value_(model.parameters(), 1.0)  # <<
""",
        ],
        [
            """
for x, y in loader:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
""",
            """
for x, y in loader:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    if max_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
""",
        ],
    ),
    "clipping-scaled-gradients": (
        [
            """
for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = F.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # <<
    scaler.step(optimizer)
    scaler.update()
""",
            """
class Trainer:
    def step(self, x, y):
        self.grad_scaler.scale(self.loss(x, y)).backward()
        if self.clip:
            nn.utils.clip_grad_value_(self.model.parameters(), self.clip)  # <<
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
""",
        ],
        [
            """
for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = F.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
""",
            """
def step(loss):
    if amp:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    else:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
""",
        ],
    ),
    "scaled-step-without-scaler": (
        [
            """
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    optimizer.step()  # <<
""",
            """
def step(model, opt, scaler, x, y):
    opt.zero_grad()
    scaler.scale(F.mse_loss(model(x), y)).backward()
    opt.step()  # <<
    scaler.update()
""",
        ],
        [
            """
for x, y in loader:
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.step(optimizer)
    scaler.update()
""",
            """
for x, y in loader:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
""",
        ],
    ),
    "scaler-never-updated": (
        [
            """
for x, y in loader:
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.step(optimizer)  # <<
""",
            """
def step(loss, optimizer, scaler):
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)  # <<
""",
        ],
        [
            """
for x, y in loader:
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.step(optimizer)
    scaler.update()
""",
            """
scaler = StandardScaler()
scaler.step(optimizer)  # another kind of scaler, whatever it does
""",
        ],
    ),
    "scheduler-before-optimizer": (
        [
            """
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
for epoch in range(30):
    scheduler.step()  # <<
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
""",
            """
from torch.optim.lr_scheduler import OneCycleLR

schedule = OneCycleLR(opt, 0.1, total_steps=100)
for x, y in loader:
    opt.zero_grad()
    F.cross_entropy(model(x), y).backward()
    schedule.step()  # <<
    opt.step()
""",
        ],
        [
            """
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
for epoch in range(30):
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    scheduler.step()
""",
            """
from train import one_epoch

scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
for epoch in range(30):
    one_epoch(model, optimizer, loader)
    scheduler.step()
    one_epoch(model, optimizer, other_loader)
""",
        ],
    ),
    "losses-kept-with-their-graphs": (
        [
            """
total = 0
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    total += loss  # <<
""",
            """
losses = []
for epoch in range(100):
    optimizer.zero_grad()
    loss = F.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss)  # <<
""",
            """
def evaluate(model, loader):
    model.eval()
    total = 0
    for x, y in loader:
        total += F.cross_entropy(model(x), y, reduction="sum")  # <<
    return total / len(loader.dataset)
""",
        ],
        [
            """
total = 0
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    total += loss.item()
    history.append(loss.detach())
""",
            """
for sequence in data:
    loss = 0
    optimizer.zero_grad()
    for x, y in sequence:
        loss += F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
""",
            """
def evaluate(model, loader):
    model.eval()
    total = 0
    with torch.no_grad():
        for x, y in loader:
            total += F.cross_entropy(model(x), y, reduction="sum")
    return total / len(loader.dataset)
""",
            """
for x, y in loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    loss = loss.item()
    total += loss
""",
        ],
    ),
    "loss-data-indexed": (
        [
            """
print(loss.data[0])  # <<
""",
            """
total += train_loss.data[0] * len(x)  # <<
""",
        ],
        [
            """
print(loss.item(), loss.data)
""",
            """
first = dataset.data[0]
""",
        ],
    ),
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
    "temperature-by-one-step": (
        [
            """
temperature = nn.Parameter(torch.ones(1))
optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=50)
optimizer.step(closure)  # <<
""",
            """
from torch import optim

class Scaler:
    def fit(self, logits, y):
        fitter = optim.LBFGS([self.T], lr=0.001)
        fitter.step(lambda: self.loss(logits, y))  # <<
""",
        ],
        [
            """
optimizer = torch.optim.LBFGS([temperature], lr=1, max_iter=100, line_search_fn="strong_wolfe")
optimizer.step(closure)
""",
            """
optimizer = torch.optim.LBFGS([temperature], lr=0.01)
for _ in range(1000):
    optimizer.step(closure)
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
    "missing-parentheses": (
        [
            """
model.eval  # <<
""",
            """
for x, y in loader:
    optimizer.zero_grad  # <<
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
""",
            """
with torch.no_grad:  # <<
    output = model(x)
""",
        ],
        [
            """
model.eval()
with torch.no_grad():
    output = model(x)
""",
            """
@torch.no_grad
def predict(model, x):
    return model(x)
""",
        ],
    ),
    "weights-only-false": (
        [
            """
model.load_state_dict(torch.load("weights.pt", weights_only=False))  # <<
""",
            """
checkpoint = torch.load(path, map_location="cpu", weights_only=False)  # <<
""",
        ],
        [
            """
weights = torch.load("weights.pt", weights_only=True)
others = torch.load("others.pt")
""",
            """
torch.save(state, path)
state = torch.load(path, weights_only=False)
""",
        ],
    ),
}
