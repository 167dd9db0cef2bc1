"""Solutions of 2.9."""

import math

import torch


def gram_schmidt(columns):
    directions = []
    for column in columns.T:
        rest = column.clone()
        for direction in directions:
            rest = rest - (direction @ rest) * direction
        directions.append(rest / rest.norm())
    return torch.stack(directions, dim=1)


def only_scales(columns):
    return columns / columns.norm(dim=0)


def forgets_to_scale(columns):
    directions = []
    for column in columns.T:
        rest = column.clone()
        for direction in directions:
            rest = rest - (direction @ rest) / (direction @ direction) * direction
        directions.append(rest)
    return torch.stack(directions, dim=1)


def takes_away_the_first_only(columns):
    first = columns[:, 0] / columns[:, 0].norm()
    rest = columns[:, 1:] - torch.outer(first, first @ columns[:, 1:])
    return torch.cat([first[:, None], rest / rest.norm(dim=0)], dim=1)


def begins_on_the_right(columns):
    return gram_schmidt(columns.flip(1)).flip(1)


def keeps_the_signs_of_qr(columns):
    return torch.linalg.qr(columns).Q


def look(picture, row, column, flow):
    height, width = picture.shape
    x = column + flow[0] * (width - 1) / 2
    y = row + flow[1] * (height - 1) / 2
    total = 0.0
    for r in (math.floor(y), math.floor(y) + 1):
        for c in (math.floor(x), math.floor(x) + 1):
            if 0 <= r < height and 0 <= c < width:
                total += (1 - abs(y - r)) * (1 - abs(x - c)) * picture[r, c].item()
    return total


def measures_from_edge_to_edge(picture, row, column, flow):
    height, width = picture.shape
    scaled = flow[0] * width / (width - 1), flow[1] * height / (height - 1)
    return look(picture, row, column, scaled)


def takes_y_first(picture, row, column, flow):
    return look(picture, row, column, flow[::-1])


def looks_the_other_way(picture, row, column, flow):
    return look(picture, row, column, (-flow[0], -flow[1]))


def stops_at_the_border(picture, row, column, flow):
    height, width = picture.shape
    x = min(max(column + flow[0] * (width - 1) / 2, 0), width - 1)
    y = min(max(row + flow[1] * (height - 1) / 2, 0), height - 1)
    back = (x - column) * 2 / (width - 1), (y - row) * 2 / (height - 1)
    return look(picture, row, column, back)


def takes_the_nearest(picture, row, column, flow):
    height, width = picture.shape
    x = round(column + flow[0] * (width - 1) / 2)
    y = round(row + flow[1] * (height - 1) / 2)
    inside = 0 <= x < width and 0 <= y < height
    return picture[y, x].item() if inside else 0.0


WRONG = {
    "gram_schmidt": [
        only_scales,
        forgets_to_scale,
        takes_away_the_first_only,
        begins_on_the_right,
        keeps_the_signs_of_qr,
    ],
    "look": [
        measures_from_edge_to_edge,
        takes_y_first,
        looks_the_other_way,
        stops_at_the_border,
        takes_the_nearest,
    ],
}
