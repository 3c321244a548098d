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
for x, y in loader:
    optimizer = torch.optim.SGD([w.clone().requires_grad_()], lr=0.1)  # another one each time
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
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
}
