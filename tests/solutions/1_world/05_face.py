"""Solutions of 1.5."""


def go_back(f, target, rounds):
    x = target
    for _ in range(rounds):
        miss = target - f(x)
        x = x + miss
    return x


def corrects_in_the_wrong_direction(f, target, rounds):
    x = target
    for _ in range(rounds):
        x = x - (target - f(x))
    return x


def adds_the_first_miss_every_time(f, target, rounds):
    return target + rounds * (target - f(target))


def begins_at_zero(f, target, rounds):
    x = 0.0
    for _ in range(rounds):
        x = x + target - f(x)
    return x


def met_on_both_sides(seen):
    answers = []
    for place in range(len(seen)):
        above, below = max(seen[: place + 1]), max(seen[place:])
        answers.append(min(above, below))
    return answers


def leaves_the_place_out(seen):
    return [
        min(max(seen[:place], default=0.0), max(seen[place + 1 :], default=0.0))
        for place in range(len(seen))
    ]


def takes_one_side(seen):
    return [max(max(seen[: place + 1]), max(seen[place:])) for place in range(len(seen))]


def multiplies(seen):
    return [max(seen[: place + 1]) * max(seen[place:]) for place in range(len(seen))]


WRONG = {
    "go_back": [corrects_in_the_wrong_direction, adds_the_first_miss_every_time, begins_at_zero],
    "met_on_both_sides": [leaves_the_place_out, takes_one_side, multiplies],
}
