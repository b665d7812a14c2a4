"""Advantages of one agent by their definition: a sum over the later rows of the same episode, float64."""


def advantages(reward, value, next_value, terminated, cut, gamma, lam):
    """`A_t = sum_k (gamma lam)^k delta_{t+k}`, the sum ending with the first row that is cut."""
    steps = len(reward)
    result = []
    for t in range(steps):
        total, weight = 0.0, 1.0
        for k in range(t, steps):
            future = 0.0 if terminated[k] else float(next_value[k])
            total += weight * (float(reward[k]) + gamma * future - float(value[k]))
            if cut[k]:
                break
            weight *= gamma * lam
        result.append(total)
    return result
