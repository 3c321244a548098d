"""Shapes, boxes, figures, comments."""

SNIPPETS = {
    "squeeze-of-a-batch": (
        [
            """
for x, y in loader:
    output = model(x).squeeze()  # <<
    loss = F.mse_loss(output, y)
""",
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 1)

    def forward(self, x):
        x = self.out(x)
        return x.squeeze()  # <<
""",
            """
class Pool(nn.Module):
    def forward(self, x):
        return torch.squeeze(F.adaptive_avg_pool2d(x, 1))  # <<
""",
            """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.out = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

    def forward(self, x):
        return self.out(self.pool(x).squeeze())  # <<
""",
        ],
        [
            """
for x, y in loader:
    output = model(x).squeeze(1)
    loss = F.mse_loss(output, y)
""",
            """
picture = model(noise[None]).squeeze()  # a single picture
""",
            """
class Net(nn.Module):
    def forward(self, x):
        return F.adaptive_avg_pool2d(x, 1).flatten(1)
""",
        ],
    ),
    "reshape-swaps-axes": (
        [
            """
n, c, h, w = x.shape
pictures = x.reshape(n, h, w, c)  # <<
""",
            """
swapped = scores.view(scores.size(1), scores.size(0), -1)  # <<
""",
            """
def heads(x):
    batch, steps, size = x.size()
    return x.reshape((batch, size, steps))  # <<
""",
        ],
        [
            """
n, c, h, w = x.shape
pictures = x.permute(0, 2, 3, 1).reshape(n, h, w, c)
flat = x.view(n, c, w * h)
""",
            """
n, c, h, w = x.shape
x = x.transpose(1, 3)
x = x.reshape(n, w, h, c)
""",
            """
n, h, w, c, _, _ = table.shape
table = table.reshape(n * h * w, c, h, w)  # places against places
""",
        ],
    ),
    "axes-of-a-single-plot": (
        [
            """
import matplotlib.pyplot as plt

fig, axes = plt.subplots(1, 1)
axes[0].plot(losses)  # <<
""",
            """
from matplotlib import pyplot as plt

def show(maps):
    fig, axes = plt.subplots(1, len(maps), figsize=(8, 2))
    for i, picture in enumerate(maps):
        axes[i].imshow(picture)  # <<
""",
        ],
        [
            """
import matplotlib.pyplot as plt

def show(maps):
    fig, axes = plt.subplots(1, len(maps), squeeze=False)
    for i, picture in enumerate(maps):
        axes[0, i].imshow(picture)
""",
            """
import matplotlib.pyplot as plt

fig, axes = plt.subplots(1, 3)
axes[0].plot(losses)
""",
            """
import matplotlib.pyplot as plt

def show(maps):
    fig, axes = plt.subplots(1, len(maps))
    if len(maps) == 1:
        axes = [axes]
    for i, picture in enumerate(maps):
        axes[i].imshow(picture)
""",
        ],
    ),
    "nms-over-all-classes": (
        [
            """
from torchvision.ops import nms

def read(boxes, scores, labels):
    keep = nms(boxes, scores, 0.5)  # <<
    return boxes[keep], scores[keep], labels[keep]
""",
            """
import torchvision

keep = torchvision.ops.nms(output["boxes"], output["scores"], 0.3)  # <<
classes = output["labels"]
boxes, class_ids = output["boxes"][keep], classes[keep]
""",
        ],
        [
            """
from torchvision.ops import batched_nms

keep = batched_nms(boxes, scores, labels, 0.5)
labels = labels[keep]
""",
            """
from torchvision.ops import nms

shifted = boxes + labels[:, None] * 4096
keep = nms(shifted, scores, 0.5)
labels = labels[keep]
""",
            """
from torchvision.ops import nms

for label in labels.unique():
    mine = labels == label
    keep = nms(boxes[mine], scores[mine], 0.5)
    kept_labels = labels[mine][keep]
""",
        ],
    ),
    "frozen-called-trainable": (
        [
            """
trainable = sum(p.numel() for p in model.parameters())  # <<
""",
            """
print(f"The model has {sum(p.numel() for p in model.parameters()):,} trainable parameters")  # <<
""",
        ],
        [
            """
trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
""",
            """
print(f"{sum(p.numel() for p in model.parameters())} parameters, {trainable} of them trainable")
""",
        ],
    ),
    "comment-counts-differently": (
        [
            """
for epoch in range(1000):
    # report every 100 epochs
    if epoch % 200 == 0:  # <<
        print(epoch)
""",
            """
if step % 2000 == 1999:  # every 1,000 mini-batches  # <<
    print(step)
""",
        ],
        [
            """
if step % 2000 == 1999:  # every 2,000 mini-batches
    print(step)
""",
            """
# takes 5 minutes; every 10th row is kept
if row % 5 == 0:
    print(row)
""",
        ],
    ),
}
