"""Metrics, data, preprocessing."""

SNIPPETS = {
    "mean-of-batch-means": (
        [
            """
model.eval()
total = 0
with torch.no_grad():
    for x, y in val_loader:
        total += F.cross_entropy(model(x), y).item()
print(total / len(val_loader))  # <<
""",
            """
def test_loop(dataloader, model, loss_fn):
    num_batches = len(dataloader)
    test_loss = 0
    with torch.no_grad():
        for x, y in dataloader:
            test_loss += loss_fn(model(x), y).item()
    test_loss /= num_batches  # <<

loss_fn = nn.CrossEntropyLoss()
test_loop(test_dataloader, model, loss_fn)
""",
            """
import numpy as np

accuracies = []
for x, y in tqdm(test_loader):
    accuracies.append((model(x).argmax(1) == y).float().mean().item())
print(np.mean(accuracies))  # <<
""",
        ],
        [
            """
total = 0
with torch.no_grad():
    for x, y in val_loader:
        total += F.cross_entropy(model(x), y).item() * len(x)
print(total / len(val_loader.dataset))
""",
            """
total = 0
with torch.no_grad():
    for x, y in val_loader:
        total += F.cross_entropy(model(x), y, reduction="sum").item()
print(total / len(val_loader.dataset))
""",
            """
val_loader = torch.utils.data.DataLoader(data, batch_size=64, drop_last=True)
total = 0
for x, y in val_loader:
    total += F.cross_entropy(model(x), y).item()
print(total / len(val_loader))
""",
            """
running = 0  # a number that only shows that the training goes on
for x, y in train_loader:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    running += loss.item()
print(running / len(train_loader))
""",
        ],
    ),
    "accuracy-over-batches": (
        [
            """
correct = 0
for x, y in test_loader:
    correct += (model(x).argmax(1) == y).sum().item()
print(100 * correct / len(test_loader))  # <<
""",
            """
right, n = 0, 0
for x, y in loader:
    predicted = model(x).argmax(1)
    right += predicted.eq(y).float().sum()
    n += 1
accuracy = right / n  # <<
""",
        ],
        [
            """
correct = 0
for x, y in test_loader:
    correct += (model(x).argmax(1) == y).sum().item()
print(100 * correct / len(test_loader.dataset))
""",
            """
right, n = 0, 0
for x, y in loader:
    right += model(x).argmax(1).eq(y).sum()
    n += len(y)
accuracy = right / n
""",
            """
from torch.utils.data import DataLoader

test_loader = DataLoader(data)  # batches of one
correct = 0
for x, y in test_loader:
    correct += (model(x).argmax(1) == y).sum().item()
print(correct / len(test_loader))
""",
        ],
    ),
    "chosen-on-test-data": (
        [
            """
best = 0
for epoch in range(20):
    for x, y in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    accuracy = evaluate(model, test_loader)
    if accuracy > best:  # <<
        best = accuracy
        torch.save(model.state_dict(), "best.pt")
""",
            """
def one_epoch(model, optimizer):
    for x, y in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

for epoch in range(20):
    one_epoch(model, optimizer)
    test_loss, accuracy = validate(model, x_test, y_test)
    scheduler.step(test_loss)  # <<
    if test_loss < best_loss:  # <<
        best_loss, patience = test_loss, 5
""",
        ],
        [
            """
best = 0
for epoch in range(20):
    for x, y in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    accuracy = evaluate(model, val_loader)
    if accuracy > best:
        best = accuracy
print(evaluate(model, test_loader))
""",
            """
for epoch in range(20):
    for x, y in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    print(evaluate(model, test_loader))  # shown, and not used
""",
        ],
    ),
    "fitted-on-test-data": (
        [
            """
from sklearn.preprocessing import StandardScaler

scaler = StandardScaler()
x_train = scaler.fit_transform(x_train)
x_test = scaler.fit_transform(x_test)  # <<
""",
            """
from sklearn.isotonic import IsotonicRegression

calibrator = IsotonicRegression().fit(p_test, y_test)  # <<
""",
            """
from course_utils.optimization import temperature_scaling

scaler = temperature_scaling(test_logits, y_test)  # <<
""",
        ],
        [
            """
from sklearn.preprocessing import StandardScaler

scaler = StandardScaler()
x_train = scaler.fit_transform(x_train)
x_test = scaler.transform(x_test)
""",
            """
from sklearn.manifold import TSNE

points = TSNE().fit_transform(test_features)  # a picture
""",
        ],
    ),
    "scaled-by-its-own-statistics": (
        [
            """
x_train = (x_train - x_train.mean(0)) / x_train.std(0)
x_test = (x_test - x_test.mean(0)) / x_test.std(0)  # <<
""",
            """
X_test = (X_test - X_test.min()) / (X_test.max() - X_test.min())  # <<
""",
        ],
        [
            """
mean, std = x_train.mean(0), x_train.std(0)
x_train, x_test = (x_train - mean) / std, (x_test - mean) / std
""",
            """
x_test = (x_test - x_train.min()) / (x_train.max() - x_train.min())
heat = (heat - heat.min()) / (heat.max() - heat.min())
""",
        ],
    ),
    "scaled-before-split": (
        [
            """
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

scaler = StandardScaler()
x = scaler.fit_transform(x)  # <<
x_train, x_test, y_train, y_test = train_test_split(x, y)
""",
            """
from sklearn import model_selection, preprocessing

scaled = preprocessing.MinMaxScaler().fit_transform(table)  # <<
parts = model_selection.train_test_split(scaled, labels, test_size=0.2)
""",
        ],
        [
            """
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

x_train, x_test, y_train, y_test = train_test_split(x, y)
scaler = StandardScaler().fit(x_train)
""",
            """
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder

y = LabelEncoder().fit_transform(names)
x_train, x_test, y_train, y_test = train_test_split(x, y)
""",
        ],
    ),
    "test-set-is-training-set": (
        [
            """
from torchvision import datasets

train_data = datasets.MNIST("data", train=True)
test_data = datasets.MNIST("data", train=True)  # <<
""",
            """
from torch.utils.data import DataLoader

train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
test_loader = DataLoader(train_set, batch_size=64)  # <<
""",
        ],
        [
            """
from torchvision import datasets

train_data = datasets.MNIST("data", train=True)
test_data = datasets.MNIST("data", train=False)
""",
            """
from torch.utils.data import DataLoader

train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
test_loader = DataLoader(test_set, batch_size=64)
""",
        ],
    ),
    "random-transform-on-test-data": (
        [
            """
from torchvision import datasets, transforms

transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
train = datasets.CIFAR10("data", train=True, transform=transform)
test = datasets.CIFAR10("data", train=False, transform=transform)  # <<
""",
            """
import torchvision
from torchvision.transforms import v2

augment = v2.Compose([v2.ColorJitter(0.2), v2.ToImage()])
data = torchvision.datasets.Flowers102("data", split="test", transform=augment)  # <<
""",
        ],
        [
            """
from torchvision import datasets, transforms

augment = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
plain = transforms.Compose([transforms.ToTensor()])
train = datasets.CIFAR10("data", train=True, transform=augment)
test = datasets.CIFAR10("data", train=False, transform=plain)
""",
            """
from torchvision import datasets, transforms

test = datasets.CIFAR10("data", train=False, transform=transforms.ToTensor())
""",
        ],
    ),
    "argmax-over-the-whole-batch": (
        [
            """
for x, y in test_loader:
    predicted = model(x).argmax()  # <<
    correct += (predicted == y).sum().item()
""",
            """
for x, y in test_loader:
    output = model(x)
    correct += (torch.argmax(output) == y).float().mean()  # <<
""",
        ],
        [
            """
for x, y in test_loader:
    predicted = model(x).argmax(1)
    correct += (predicted == y).sum().item()
""",
            """
for picture, label in pairs:  # single samples
    predicted = model(picture[None]).argmax()
    correct += (predicted == label).sum()
""",
        ],
    ),
}
