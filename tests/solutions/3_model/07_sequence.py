"""Solutions of 3.7."""


def jobs(num_tokens, first_patch, num_patches):
    answers = [None] * num_tokens
    for patch in range(num_patches):
        answers[first_patch + patch - 1] = patch
    answers[first_patch + num_patches - 1] = "stop"
    return answers


def says_where_patches_stand(num_tokens, first_patch, num_patches):
    answers = [None] * num_tokens
    for patch in range(num_patches):
        answers[first_patch + patch] = patch
    return answers


def never_stops(num_tokens, first_patch, num_patches):
    return [None if job == "stop" else job for job in jobs(num_tokens, first_patch, num_patches)]


def stops_at_the_end(num_tokens, first_patch, num_patches):
    return [*never_stops(num_tokens, first_patch, num_patches)[:-1], "stop"]


def stops_instead_of_the_last_patch(num_tokens, first_patch, num_patches):
    return jobs(num_tokens, first_patch, num_patches - 1)


def place_one_by_one(tokens, patches, first, num_patches):
    placed = tokens.clone()
    for b in range(len(tokens)):
        n = num_patches[b]
        placed[b, first[b] : first[b] + n] = patches[b, :n]
    return placed


def writes_into_the_tokens(tokens, patches, first, num_patches):
    for b in range(len(tokens)):
        n = num_patches[b]
        tokens[b, first[b] : first[b] + n] = patches[b, :n]
    return tokens


def places_what_does_not_exist(tokens, patches, first, num_patches):
    placed = tokens.clone()
    for b in range(len(tokens)):
        room = placed[b, first[b] :]
        n = min(len(room), patches.shape[1])
        room[:n] = patches[b, :n]
    return placed


def places_where_they_are_predicted(tokens, patches, first, num_patches):
    return place_one_by_one(tokens, patches, first - 1, num_patches)


def begins_everywhere_at_the_same_place(tokens, patches, first, num_patches):
    return place_one_by_one(tokens, patches, first.new_full(first.shape, 2), num_patches)


def placeholders_and_targets(sound_frames, motion_frames):
    sound = -(-sound_frames // 4)
    motion = motion_frames // 4
    targets = [count if count > 1 else 0 for count in (sound, motion)]
    return max(sound, motion), *targets


def rounds_both_up(sound_frames, motion_frames):
    return placeholders_and_targets(sound_frames, -(-motion_frames // 4) * 4)


def rounds_both_down(sound_frames, motion_frames):
    return placeholders_and_targets(sound_frames // 4 * 4, motion_frames)


def keeps_a_single_patch(sound_frames, motion_frames):
    sound, motion = -(-sound_frames // 4), motion_frames // 4
    return max(sound, motion), sound, motion


def always_takes_the_sound(sound_frames, motion_frames):
    _, *targets = placeholders_and_targets(sound_frames, motion_frames)
    return -(-sound_frames // 4), *targets


WRONG = {
    "jobs": [
        says_where_patches_stand,
        never_stops,
        stops_at_the_end,
        stops_instead_of_the_last_patch,
    ],
    "place_one_by_one": [
        writes_into_the_tokens,
        places_what_does_not_exist,
        places_where_they_are_predicted,
        begins_everywhere_at_the_same_place,
    ],
    "placeholders_and_targets": [
        rounds_both_up,
        rounds_both_down,
        keeps_a_single_patch,
        always_takes_the_sound,
    ],
}
