// The texts that `tutti upcycle` makes routers from when it is given none: eight kinds, so that
// kinds of rows are there to be told apart.
#pragma once

namespace tutti::cli {

struct NamedText {
  const char* name;
  const char* text;
};

inline constexpr NamedText kUpcycleTexts[] = {
    {"story",
     R"TEXT(When the mill stopped turning, nobody in the village noticed for three days. The stream still ran, the ducks still argued under the bridge, and old Perrin still sat on his bench with a pipe that he never lit. It was the baker's daughter who finally said it aloud: there was no new flour. She walked up the path with an empty sack over her shoulder and found the door open, the great wheel locked, and a note pinned to the beam. "Gone to see the sea," it said. "Back when I have seen it." She read it twice, laughed, and sat down on the stone step to think about who in the village had ever seen the sea. Her grandmother had, once, and had talked of nothing else for a year. She folded the note, put it in her pocket, and pulled the lever that let the water in.

That evening the whole village came to look at the turning wheel. Somebody brought a lantern, somebody else brought cider, and the schoolmaster explained gears to anyone who could not get away in time.)TEXT"},
    {"explanation",
     R"TEXT(A vaccine shows the immune system a harmless part of a germ, so that it can prepare before the real one arrives. White blood cells called B cells carry receptors of many different shapes. The few whose receptors happen to fit the part that is shown begin to divide, and their descendants produce antibodies. Most of these cells die when the work is done, but some remain for years as memory cells. If the germ appears later, the memory cells recognise it within hours instead of days, and the infection is often over before the person feels ill.

Plate tectonics explains why earthquakes are common in some regions and rare in others. The outer shell of the Earth is broken into plates that move a few centimetres every year. Where two plates slide past each other, friction holds the rock in place while stress builds up, until the fault slips and releases the energy as waves. Where one plate dives beneath another, water carried down with it lowers the melting point of the rock above, which feeds chains of volcanoes.)TEXT"},
    {"dialogue",
     R"TEXT(User: Hi! I have to give a short speech at my sister's wedding and I am terrified. Where do I start?
Assistant: Congratulations to your sister! Start with one story that only you can tell. It does not have to be funny; it has to be true. What is the first thing you remember about the two of you?
User: She taught me to ride a bike and then told everyone I had learned it alone.
Assistant: That is perfect. Open with the bike, say what it shows about her, and then turn to her partner: who is holding the saddle now? Keep it under three minutes, and end with a toast.
User: Should I write it all out or use notes?
Assistant: Write it all out first, read it aloud five times, and then take only a card with four keywords to the party. If you forget a sentence, nobody will know except you.
User: What if I start to cry?
Assistant: Then stop, breathe, smile, and drink some water. People will love you for it. Would you like me to draft the first few lines?)TEXT"},
    {"python",
     R"TEXT(import heapq
from collections import defaultdict


class Graph:
    """A directed graph with weights on its edges."""

    def __init__(self):
        self.edges = defaultdict(list)

    def add_edge(self, source, target, weight=1.0):
        if weight < 0:
            raise ValueError(f"weight of {source}->{target} is negative: {weight}")
        self.edges[source].append((target, weight))

    def shortest_paths(self, start):
        distance = {start: 0.0}
        queue = [(0.0, start)]
        while queue:
            so_far, node = heapq.heappop(queue)
            if so_far > distance.get(node, float("inf")):
                continue
            for neighbour, weight in self.edges[node]:
                candidate = so_far + weight
                if candidate < distance.get(neighbour, float("inf")):
                    distance[neighbour] = candidate
                    heapq.heappush(queue, (candidate, neighbour))
        return distance


if __name__ == "__main__":
    graph = Graph()
    for a, b, w in [("a", "b", 3), ("b", "c", 1), ("a", "c", 7), ("c", "d", 2)]:
        graph.add_edge(a, b, w)
    for node, d in sorted(graph.shortest_paths("a").items()):
        print(node, d))TEXT"},
    {"c++",
     R"TEXT(#include <cstddef>
#include <mutex>
#include <optional>
#include <vector>

// A queue of fixed size that several threads may use.
template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : items_(capacity) {}

  bool TryPush(T value) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (size_ == items_.size()) return false;
    items_[(head_ + size_) % items_.size()] = std::move(value);
    ++size_;
    return true;
  }

  std::optional<T> TryPop() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (size_ == 0) return std::nullopt;
    T value = std::move(items_[head_]);
    head_ = (head_ + 1) % items_.size();
    --size_;
    return value;
  }

  size_t size() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return size_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<T> items_;
  size_t head_ = 0, size_ = 0;
};

int main() {
  BoundedQueue<int> queue(4);
  for (int i = 0; i < 6; ++i) {
    if (!queue.TryPush(i * i)) break;
  }
  while (auto value = queue.TryPop()) std::printf("%d\n", *value);
  return 0;
})TEXT"},
    {"german and french",
     R"TEXT(Am frühen Morgen lag der Nebel noch über den Feldern, und nur die Spitze des Kirchturms ragte heraus. Der Briefträger schob sein Fahrrad den Hügel hinauf, weil die Kette schon wieder gerissen war. "Heute wird es warm", rief ihm die Nachbarin aus dem Fenster zu. Er nickte, gab ihr zwei Rechnungen und eine Postkarte aus Portugal, und ging langsam weiter. Niemand wusste, dass es sein letzter Arbeitstag war.

Le marché se tient chaque samedi sur la place devant la mairie. On y trouve des fromages de chèvre, du miel, des tomates de toutes les couleurs et, en automne, des champignons que les vieux du village vont cueillir avant l'aube. Les prix sont écrits à la craie sur de petites ardoises. Vers midi, quand les marchands commencent à ranger, tout devient moins cher, et c'est à ce moment-là que ma tante fait ses courses.)TEXT"},
    {"spanish and italian",
     R"TEXT(La abuela guardaba las llaves en una lata de galletas, junto con los botones y las monedas antiguas. Cuando llovía, nos dejaba abrirla y nos contaba de qué puerta era cada una. Había una del molino, otra de la escuela vieja y una, muy pequeña, que según ella abría el mar. Nunca quiso explicarnos más. Ahora que la casa está vacía, he vuelto a buscar la lata, y la llave pequeña ya no está.

Il treno per Bologna parte alle sette e un quarto dal binario quattro. Chi arriva tardi deve aspettare quasi un'ora, ma il bar della stazione è aperto e il caffè è buono. Mio fratello dice che i viaggi cominciano proprio lì, con la tazzina in mano e la valigia tra i piedi. Io invece preferisco guardare fuori dal finestrino, contare i campi e pensare a quello che ho dimenticato a casa.)TEXT"},
    {"figures",
     R"TEXT({"order": 48213, "currency": "EUR", "items": [{"sku": "A-1007", "quantity": 2, "price": 14.95}, {"sku": "C-0420", "quantity": 1, "price": 129.00}], "shipping": {"method": "standard", "cost": 4.90}, "total": 163.80}

| year | inhabitants | households | area km2 |
| --- | --- | --- | --- |
| 1990 | 18204 | 7310 | 42.6 |
| 2000 | 19877 | 8425 | 42.6 |
| 2010 | 21350 | 9614 | 44.1 |
| 2020 | 20912 | 9988 | 44.1 |

Solve 3x + 7 = 25. Subtract 7 from both sides: 3x = 18. Divide by 3: x = 6. Check: 3 * 6 + 7 = 18 + 7 = 25.
The sum of the first n odd numbers is n^2: 1 = 1, 1 + 3 = 4, 1 + 3 + 5 = 9, 1 + 3 + 5 + 7 = 16.

2024-03-18 06:12:44 INFO  worker-3 job=8812 started
2024-03-18 06:12:49 WARN  worker-3 job=8812 retry=1 reason=timeout after=5000ms
2024-03-18 06:12:53 INFO  worker-3 job=8812 finished rows=120394 seconds=9.1)TEXT"},
};

}  // namespace tutti::cli
