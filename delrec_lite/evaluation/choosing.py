"""Which figure of validation users chooses a teacher's epoch and the weights of stage 2."""

# NDCG@10 among m candidates, expected over all candidate sets, distinguishes two models with a quarter of the users
# that NDCG@10 of the whole catalogue needs (MovieLens-100K, the pairs of 8 models: mean |z| 4.0 against 1.9). But with
# uniform candidates of a large catalogue it says little of the first ten: on Amazon Beauty it chose epoch 11 of a
# teacher whose NDCG@10 of the whole catalogue was 0.056 then and 0.066 in epoch 19. So it chooses where users are few.
MANY_USERS = 5000
# Of many users, how many are ranked at each validation of stage 2.
RANKED_USERS = 2000


def whole_catalogue(users: int) -> bool:
    """Whether NDCG@10 of the whole catalogue chooses, for a number of validation users."""
    return users >= MANY_USERS
