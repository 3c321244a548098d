"""Heads, losses and probabilities."""

SNIPPETS = {
    "probabilities-into-cross-entropy": (
        [
            """
def step(z, y):
    return F.cross_entropy(F.softmax(z, dim=1), y)  # <<
""",
            """
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(dim=1)).to("cpu")
output = model(x)
loss = criterion(output, y)  # <<
""",
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 3)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x):
        x = self.out(x)
        return self.softmax(x)

def train(model, criterion, loader):
    for x, y in loader:
        loss = criterion(model(x), y)  # <<

def main():
    net = Net()
    if torch.cuda.is_available():
        net = net.cuda()
    train(net, nn.CrossEntropyLoss(), loader)
""",
            """
import lightning as L

class Model(L.LightningModule):
    def forward(self, x):
        return torch.sigmoid(self.layers(x))

    def training_step(self, batch, index):
        x, y = batch
        return F.cross_entropy(input=self(x), target=y)  # <<
""",
        ],
        [
            """
loss = F.cross_entropy(model(x), y)
p = F.softmax(model(x), dim=1)
""",
            """
class Net(nn.Module):
    def forward(self, x):
        z = self.out(x)
        return z if self.training else z.softmax(1)

criterion = nn.CrossEntropyLoss()
loss = criterion(Net()(x), y)
""",
            """
# log_softmax of log_softmax is itself: superfluous, and harmless
loss = F.cross_entropy(F.log_softmax(z, dim=1), y)
""",
            """
model = nn.Sequential(nn.Linear(8, 3), nn.Softmax(dim=1))
model[1] = nn.Identity()
criterion = nn.CrossEntropyLoss()
loss = criterion(model(x), y)
""",
            """
for x, y in batches:
    loss = F.cross_entropy(z, y)
    z = F.softmax(model(x), dim=1)
    z = refine(z)
""",
        ],
    ),
    "probabilities-into-bce-with-logits": (
        [
            """
loss = F.binary_cross_entropy_with_logits(torch.sigmoid(z), y)  # <<
""",
            """
from torch.nn import BCEWithLogitsLoss, Linear, Sequential, Sigmoid

model = Sequential(Linear(8, 1), Sigmoid())
loss_fn = BCEWithLogitsLoss()
p = model(x).squeeze(1)
loss = loss_fn(p, y)  # <<
""",
        ],
        [
            """
loss = F.binary_cross_entropy_with_logits(z, y)
""",
            """
p = torch.sigmoid(z)
loss = F.binary_cross_entropy(p, y)
""",
        ],
    ),
    "relu-before-loss": (
        [
            """
loss = F.cross_entropy(F.relu(z), y)  # <<
""",
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(8, 4)
        self.two = nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.one(x))
        x = F.relu(self.two(x))
        return x

criterion = nn.CrossEntropyLoss()
net = Net()
loss = criterion(net(x), y)  # <<
""",
        ],
        [
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(8, 4)
        self.two = nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.one(x))
        return self.two(x)

loss = F.cross_entropy(Net()(x), y)
""",
            """
loss = F.mse_loss(F.relu(z), counts)  # a count is never negative
""",
        ],
    ),
    "logits-into-bce": (
        [
            """
model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))
criterion = nn.BCELoss()
loss = criterion(model(x), y)  # <<
""",
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(x).flatten()

loss = F.binary_cross_entropy(Net()(x), y)  # <<
""",
        ],
        [
            """
model = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())
loss = nn.BCELoss()(model(x), y)
""",
            """
model = nn.Sequential(nn.Linear(8, 1))
loss = nn.BCELoss()(torch.sigmoid(model(x)), y)
""",
        ],
    ),
    "nll-without-log-softmax": (
        [
            """
loss = F.nll_loss(z.softmax(1), y)  # <<
""",
            """
model = nn.Sequential(nn.Linear(8, 3))
criterion = nn.NLLLoss()
loss = criterion(model(x), y)  # <<
""",
        ],
        [
            """
loss = F.nll_loss(F.log_softmax(z, dim=1), y)
""",
            """
model = nn.Sequential(nn.Linear(8, 3), nn.LogSoftmax(dim=1))
loss = nn.NLLLoss()(model(x), y)
""",
        ],
    ),
    "kl-div-without-log": (
        [
            """
loss = F.kl_div(F.softmax(student, dim=1), F.softmax(teacher, dim=1), reduction="batchmean")  # <<
""",
            """
loss = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean")  # <<
""",
            """
loss = nn.KLDivLoss(log_target=True)(student.log_softmax(1), teacher.softmax(1))  # <<
""",
        ],
        [
            """
loss = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
""",
            """
loss = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
""",
        ],
    ),
    "log-of-softmax": (
        [
            """
p = F.softmax(z, dim=1)
loss = -torch.log(p + 1e-10)[range(len(y)), y].mean()  # <<
""",
            """
log_p = z.softmax(-1).log()  # <<
""",
            """
score = torch.log(torch.sigmoid(good - bad)).mean()  # <<
""",
            """
loss = -(y * torch.log(torch.sigmoid(z).clamp(min=1e-7))).mean()  # <<
""",
        ],
        [
            """
log_p = F.log_softmax(z, dim=1)
log_odds = F.logsigmoid(z)
""",
            """
p = z.softmax(1)
entropy = -(p * p.log()).sum(1)
mask = z.sigmoid()
entropy = -mask * torch.log(mask + 1e-15) - (1 - mask) * torch.log(1 - mask + 1e-15)
""",
            """
p = z.softmax(1)
log_p = torch.log(p + 1e-12)
entropy = -(p * log_p).sum(1)
""",
            """
import math

price = math.log(torch.sigmoid(z).item())
""",
        ],
    ),
    "softmax-without-dim": (
        [
            """
p = F.softmax(model(x))  # <<
""",
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.softmax = nn.Softmax()  # <<
""",
            """
from torch.nn.functional import log_softmax

log_p = log_softmax(z)  # <<
""",
        ],
        [
            """
p = F.softmax(z, dim=1)
q = F.softmax(z, -1)
layer = nn.Softmax(1)
""",
            """
from scipy.special import softmax

p = softmax(scores)
""",
        ],
    ),
    "softmax-of-one-logit": (
        [
            """
head = nn.Linear(8, 1)
p = F.softmax(head(x), dim=-1)  # <<
""",
            """
model = nn.Sequential(
    nn.Flatten(),
    nn.Linear(64, 1),
    nn.Softmax(dim=1),  # <<
)
""",
        ],
        [
            """
head = nn.Linear(8, 2)
p = F.softmax(head(x), dim=-1)
""",
            """
# attention over T: (N, T, 8) -> (N, T, 1)
weights = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1), nn.Softmax(dim=1))
""",
        ],
    ),
    "cross-entropy-of-one-logit": (
        [
            """
model = nn.Sequential(nn.Linear(8, 1))
loss = F.cross_entropy(model(x), y)  # <<
""",
            """
n_classes = 1

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, out_features=n_classes)

    def forward(self, x):
        return self.fc(x)

criterion = nn.CrossEntropyLoss()
net = Net()
loss = criterion(net(x), y)  # <<
""",
        ],
        [
            """
model = nn.Sequential(nn.Linear(8, 2))
loss = F.cross_entropy(model(x), y)
choice = nn.Linear(16, 1)  # one score for each of several answers
loss = F.cross_entropy(choice(states).view(-1, n_answers), y)
""",
            """
model = nn.Sequential(nn.Linear(8, 1))
loss = F.binary_cross_entropy_with_logits(model(x), y)
""",
        ],
    ),
    "broadcasting-loss": (
        [
            """
model = nn.Sequential(nn.Linear(8, 1))
loss = F.mse_loss(model(x), y.view(-1))  # <<
""",
            """
model = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
y = torch.randn(100)
criterion = nn.MSELoss()
output = model(x)
loss = criterion(output, y)  # <<
""",
            """
loss = F.l1_loss(prediction.reshape(-1), target[:, None])  # <<
""",
        ],
        [
            """
model = nn.Sequential(nn.Linear(8, 1))
loss = F.mse_loss(model(x), y.view(-1, 1))
""",
            """
model = nn.Sequential(nn.Linear(8, 1))
loss = F.mse_loss(model(x).squeeze(1), torch.randn(100))
""",
            """
loss = F.mse_loss(model(x), y)  # the shapes are not to be seen
""",
        ],
    ),
    "loss-class-called-with-data": (
        [
            """
loss = nn.MSELoss(model(x), y)  # <<
""",
            """
from torch.nn import CrossEntropyLoss

def loss_of(output, target):
    return CrossEntropyLoss(output, target)  # <<
""",
        ],
        [
            """
loss = nn.MSELoss()(model(x), y)
""",
            """
criterion = nn.CrossEntropyLoss(weights, True)
other = nn.CrossEntropyLoss(weight=weights, reduction="sum")
""",
        ],
    ),
    "loss-arguments-swapped": (
        [
            """
loss = F.cross_entropy(y, model(x))  # <<
""",
            """
criterion = nn.BCELoss()
output = model(x)
loss = criterion(labels, output)  # <<
""",
        ],
        [
            """
loss = F.cross_entropy(model(x), y)
""",
            """
loss = F.mse_loss(y, model(x))  # the same both ways
""",
        ],
    ),
    "exp-then-clamp": (
        [
            """
scale = torch.clamp(torch.exp(z), max=100)  # <<
""",
            """
variance = log_variance.exp()
variance = variance.clamp(1e-6, 1e6)  # <<
""",
        ],
        [
            """
scale = torch.exp(torch.clamp(z, max=5))
""",
            """
near = torch.exp(-distance).clamp(max=0.5)
low = torch.exp(z).clamp(min=1e-6)
""",
            """
import numpy as np

p = np.clip(np.exp(z), 0, 1)
ratio = torch.exp(new - old)  # of two policies
clipped = torch.clamp(ratio, 1 - eps, 1 + eps)
""",
        ],
    ),
    "logits-called-probabilities": (
        [
            """
model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
probabilities = model(x)  # <<
""",
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(x)

net = Net()
output = net(x)
confidence, predicted = torch.max(output, 1)  # <<
""",
        ],
        [
            """
model = nn.Sequential(nn.Linear(8, 3))
probabilities = model(x).softmax(1)
confidence, predicted = probabilities.max(1)
""",
            """
model = nn.Sequential(nn.Linear(8, 3), nn.Softmax(dim=1))
probs = model(x)
""",
            """
model = nn.Sequential(nn.Linear(8, 3))
values, predicted = model(x).max(1)
""",
        ],
    ),
    "logits-cut-at-half": (
        [
            """
model = nn.Sequential(nn.Linear(8, 1))
logits = model(x)
loss = F.binary_cross_entropy_with_logits(logits, y)
right = ((model(x) > 0.5) == y).float().mean()  # <<
""",
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 1)

    def forward(self, x):
        return self.fc(x)

net = Net()
criterion = nn.BCEWithLogitsLoss()
output = net(x)
loss = criterion(output, y)
answer = torch.round(output.squeeze(1))  # <<
""",
        ],
        [
            """
model = nn.Sequential(nn.Linear(8, 1))
loss = F.binary_cross_entropy_with_logits(model(x), y)
right = ((model(x) > 0) == y).float().mean()
p = torch.sigmoid(model(x)) > 0.5
""",
            """
model = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())
loss = F.binary_cross_entropy(model(x), y)
answer = model(x) > 0.5
""",
        ],
    ),
}
