// The text that `tutti quantize` compares models on when it is given none: prose, explanation,
// dialogue, figures and code, so that different parts of a model have to speak.
#pragma once

namespace tutti::cli {

inline constexpr char kReportText[] =
    R"TEXT(The ferry left the harbour a little after six, when the gulls had already given up on the fish market and the first lamps were lit along the quay. Marta stood at the rail with her collar up. She had made this crossing every autumn since she was nine years old, first with her grandfather, who kept bees on the island, and later alone, with a suitcase full of empty jars. The sea was flat and grey, and the engine hummed so evenly that after a while she no longer heard it. When the lighthouse came into view she counted the seconds between its flashes, as he had taught her: three short, one long, then darkness for a slow breath.

Water boils when its vapour pressure equals the pressure of the air around it. At sea level this happens at 100 degrees Celsius; on a mountain of 3000 metres the air is thinner, and about 90 degrees are enough. That is why pasta takes longer to cook in the mountains: the water bubbles just as wildly, but it is cooler. A pressure cooker does the opposite. Its lid holds the steam back, the pressure rises to roughly twice that of the air, and the water can reach 120 degrees before it boils, so that beans which would need an hour are soft in twenty minutes.

"You said the train was at ten," said Jonas.
"I said the last train was at ten," his sister answered. "The one we wanted was at half past nine."
"Then why did you let me finish my coffee?"
"Because you looked as if you needed it. Besides, there is a bus."
He looked at the timetable, then at the rain, then at her. "There was a bus," he said. "On weekdays."

To compute the median of a list, sort it first and then look at the middle. With an odd number of values there is exactly one in the middle; with an even number, take the mean of the two. In Python:

def median(values):
    ordered = sorted(values)
    n = len(ordered)
    if n == 0:
        raise ValueError("the list is empty")
    middle = n // 2
    if n % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2

Three things to check before a long bicycle tour:
1. The brakes. Squeeze both levers; the wheel must stop at once, and the pads should be at least two millimetres thick.
2. The chain. If it has stretched by more than one percent, replace it now, before it wears down the sprockets.
3. The tyres. Look for cuts, pump them to the pressure printed on the side, and pack one spare tube for every 500 kilometres.

In 1850 the town had 4,200 inhabitants, two mills and no railway. Thirty years later the line from the capital had arrived, the mills had become factories, and the population had passed 19,000. The old market square, where farmers used to sell geese and onions on Saturdays, was paved over and named after a general whom nobody remembered. Only the fountain stayed where it was, because the engineer who drew the plans liked to eat his lunch beside it.
)TEXT";

}  // namespace tutti::cli
