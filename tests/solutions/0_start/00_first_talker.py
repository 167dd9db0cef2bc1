"""Solutions of 0.0."""


def follow(direction, noise, steps):
    x = noise
    for step in range(steps):
        x = x + direction(x, step / steps) / steps
    return x


def asks_at_the_end_of_a_step(direction, noise, steps):
    x = noise
    for step in range(steps):
        x = x + direction(x, (step + 1) / steps) / steps
    return x


def asks_at_the_noise_every_time(direction, noise, steps):
    return noise + sum(direction(noise, step / steps) / steps for step in range(steps))


def takes_whole_steps(direction, noise, steps):
    x = noise
    for step in range(steps):
        x = x + direction(x, step / steps)
    return x


def writes_into_the_noise(direction, noise, steps):
    for step in range(steps):
        noise += direction(noise, step / steps) / steps
    return noise


def stop_answers(count, longest):
    goes_on = [0] * count
    padding = [None] * (longest - count)
    return [*goes_on, 1, *padding]


def says_over_at_the_vector_before_the_last_patch(count, longest):
    return [0] * (count - 1) + [1] + [None] * (longest + 1 - count)


def asks_the_padding_too(count, longest):
    return [int(place == count) for place in range(longest + 1)]


def forgets_the_begin_mark(count, longest):
    return [0] * (count - 1) + [1] + [None] * (longest - count)


WRONG = {
    "follow": [
        asks_at_the_end_of_a_step,
        asks_at_the_noise_every_time,
        takes_whole_steps,
        writes_into_the_noise,
    ],
    "stop_answers": [
        says_over_at_the_vector_before_the_last_patch,
        asks_the_padding_too,
        forgets_the_begin_mark,
    ],
}
