"""Rows of metrics that follow a curve."""


def curve(member, l1, l0_of, steps=range(50, 1050, 50), *, features=1000, phase="sweep", lr=lambda s: 1e-3, **more):
    return [
        {
            "phase": phase,
            "member": member,
            "hook": "resid_post.3",
            "l1": l1,
            "step": s,
            "l0": l0_of(s),
            "nonzero_proportion": l0_of(s) / features,
            "loss": 0.0 * l0_of(s),
            "over_tokens": 4096,
            "lr": lr(s),
            **more,
        }
        for s in steps
    ]


def power(level, slope, at=1000):
    return lambda s: level * (s / at) ** -slope


def decays(begin, end):
    return lambda s: 1e-3 * min(1.0, (end - s) / (end - begin))
