"""Solutions of 4.5."""


def leaks(change):
    found = []
    for k in range(change.shape[0]):
        for j in range(k, change.shape[1]):
            if change[k, j] != 0:
                found.append((k, j))
    return found


def forgets_its_own(change):
    return [(k, j) for k, j in leaks(change) if j != k]


def looks_at_earlier_ones(change):
    return [(k, j) for j, k in leaks(change.T)]


def believes_that_changes_are_positive(change):
    return [(k, j) for k, j in leaks(change) if change[k, j] > 0]


def guessers_loss(patches):
    return 1 + patches.var(dim=0, unbiased=False).mean().item()


def forgets_the_noise(patches):
    return guessers_loss(patches) - 1


def takes_one_mean_for_all(patches):
    return 1 + patches.var().item()


def takes_the_power(patches):
    return 1 + patches.square().mean().item()


WRONG = {
    "leaks": [forgets_its_own, looks_at_earlier_ones, believes_that_changes_are_positive],
    "guessers_loss": [forgets_the_noise, takes_one_mean_for_all, takes_the_power],
}
