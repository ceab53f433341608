"""Scores of segmentation and video, from their definitions, one pixel and one clip at a time."""

import numpy as np


def confusion(predicted, masks, classes, ignore):
    """Return how many pixels of each class (rows) were taken for each class (columns)."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    for guess, truth in zip(predicted.flat, masks.flat, strict=True):
        if truth != ignore:
            counts[truth, guess] += 1
    return counts


def mean_iou(counts):
    """Return the mean of TP / (TP + FP + FN) over the classes that occur, in masks or predictions."""
    shares = []
    for c in range(len(counts)):
        union = counts[c].sum() + counts[:, c].sum() - counts[c, c]
        if union:
            shares.append(counts[c, c] / union)
    return float(np.mean(shares))


def pixel_accuracy(counts):
    return float(np.trace(counts) / counts.sum())


def softmax(logits):
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def video_accuracy(logits, classes, videos, k):
    """Return the share of videos whose class is among the k largest of the mean of their clips' probabilities."""
    right = []
    for video in sorted(set(videos)):
        clips = [number for number, other in enumerate(videos) if other == video]
        mean = sum(softmax(logits[number]) for number in clips) / len(clips)
        larger = sum(value > mean[classes[clips[0]]] for value in mean)
        right.append(larger < k)
    return sum(right) / len(right)
