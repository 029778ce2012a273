// What speculation_bench has quoted, summed up and edited: eight texts of some 150 words, eight
// programs of some ten lines. Written for it.
#pragma once

namespace tutti {

constexpr const char kArticle[] =
    "The lighthouse on Gull Island was built in 1874 by a crew of thirty masons who lived in tents "
    "through two winters. Its lamp burned whale oil at first, then paraffin, and from 1931 on it "
    "was "
    "electric. The keeper climbed one hundred and twelve steps every evening to wind the clockwork "
    "that turned the lens. In 1958 a storm broke the glass of the lantern room, and for six weeks "
    "the keeper and his daughter lit a fire on the gallery so that the herring fleet could find "
    "the "
    "harbour. The tower was automated in 1986. Today it belongs to the village, which opens it on "
    "Sundays; the money from the tickets pays for the lifeboat.";

constexpr const char kNews[] =
    "The city council of Marlow voted on Tuesday to close the old swimming pool on Bridge "
    "Street at the end of the summer. Repairs to the roof and the filters would cost about "
    "two million pounds, the council's engineer said, and fewer than a hundred people a day "
    "have used the pool this year. A new pool with a cafe and a gym is to be built beside "
    "the railway station by 2027. Residents who live near the old pool said they were not "
    "asked, and have collected four thousand signatures against the plan. The mayor, Helen "
    "Price, said the building could become a library or a market hall. A public meeting will "
    "be held in the town hall on the ninth of May.";

constexpr const char kLetter[] =
    "Dear Ms Hartmann, thank you for your order of 14 March. Unfortunately the oak table in "
    "the size you chose (180 by 90 centimetres) is out of stock until the end of April, "
    "because our supplier in Denmark had a fire in his workshop. We can offer you the same "
    "table in ash at a price of 640 euros, which is 60 euros less, and deliver it next week, "
    "or keep your order and deliver the oak table in the first week of May. In both cases we "
    "would not charge you for delivery. The six chairs are ready and can be sent at once. "
    "Please let us know by Friday which you prefer. If you wish to cancel the order we will "
    "return your deposit of 200 euros within three days. With kind regards, Jonas Weber";

constexpr const char kScience[] =
    "Honeybees tell each other where to find food by dancing. A bee that has found a rich "
    "patch of flowers returns to the hive and runs in a figure of eight on the comb, "
    "waggling her body in the middle part. The direction of this part, measured against the "
    "vertical, gives the direction of the flowers measured against the sun. The longer she "
    "waggles, the farther away the food is; about one second stands for one kilometre. Other "
    "bees follow her in the dark, touching her with their antennae, and then fly out to the "
    "place. Karl von Frisch, who decoded the dance, received the Nobel Prize in 1973. Later "
    "experiments with a robot bee showed that the dance alone is enough to send bees to a "
    "place.";

constexpr const char kRecipe[] =
    "For the bread, mix 500 grams of rye flour with 400 millilitres of warm water, two spoons of "
    "sourdough and ten grams of salt. Cover the bowl with a cloth and leave it in a warm place for "
    "twelve hours. Then knead the dough on a floured table for five minutes, form a loaf and put "
    "it "
    "into a basket. After two more hours heat the oven to 250 degrees with a bowl of water on its "
    "floor. Bake the loaf for fifteen minutes, take out the water, lower the heat to 200 degrees "
    "and "
    "bake it for forty minutes more. The bread is done when it sounds hollow if you knock on its "
    "bottom. Let it cool for at least three hours before you cut it.";

constexpr const char kMinutes[] =
    "Minutes of the garden club, 3 June. Present were eleven members; Mr Okafor was in the chair. "
    "The treasurer reported that the club has 1,240 pounds and that four members have not paid "
    "their fees. It was agreed to write to them before the end of the month. Mrs Lindqvist "
    "proposed to plant an apple tree in front of the school. Two members thought that a cherry "
    "tree would give less work. The proposal was accepted by seven votes to four. The summer "
    "festival will be held on 20 July in the park; Ms Tanaka will ask the council for tables and "
    "benches. The next meeting is on 1 July at half past seven in the library.";

constexpr const char kManual[] =
    "Before you use the coffee machine for the first time, fill the tank with fresh water and let "
    "two tanks run through without coffee. Clean the filter once a week under running water and "
    "never with soap. When the red light blinks, the machine must be descaled: put one bag of the "
    "powder into the tank, fill it up with water, and hold the button for five seconds. The "
    "program takes about twenty minutes and must not be stopped. Afterwards rinse the tank twice. "
    "If the machine does not heat, pull the plug, wait for ten minutes and try again. If the red "
    "light still blinks then, call our service; do not open the machine yourself.";

constexpr const char kHistory[] =
    "The canal between the two rivers was dug from 1817 to 1825, mostly by hand. Engineers had no "
    "school to learn from, so they invented what they needed: a machine that pulled out the stumps "
    "of trees, a plough that cut roots, and a cement that hardened under water. Eighty-three locks "
    "lifted the boats by one hundred and seventy metres. Before the canal, a ton of grain cost one "
    "hundred dollars to carry to the coast and took three weeks; afterwards it cost ten dollars "
    "and took eight days. Towns along the canal grew fast, and the port at its end became the "
    "largest of the country. Railways took over the passengers after 1850, but freight was carried "
    "on the canal for another hundred years.";

constexpr const char kPython[] =
    "def total_price(items, discount):\n"
    "    total = 0\n"
    "    for item in items:\n"
    "        price = item.price * item.count\n"
    "        if item.category == 'book':\n"
    "            price = price * (1 - discount)\n"
    "        total = total + price\n"
    "    return total\n"
    "\n"
    "def print_invoice(customer, items, discount):\n"
    "    print('Invoice for ' + customer.name)\n"
    "    for item in items:\n"
    "        print(item.name + ': ' + str(item.price * item.count))\n"
    "    print('Total: ' + str(total_price(items, discount)))\n";

constexpr const char kCpp[] =
    "#include <vector>\n"
    "\n"
    "double Mean(const std::vector<double>& values) {\n"
    "  double sum = 0;\n"
    "  for (double v : values) sum += v;\n"
    "  return values.empty() ? 0 : sum / values.size();\n"
    "}\n"
    "\n"
    "double Variance(const std::vector<double>& values) {\n"
    "  const double mean = Mean(values);\n"
    "  double sum = 0;\n"
    "  for (double v : values) sum += (v - mean) * (v - mean);\n"
    "  return values.size() < 2 ? 0 : sum / (values.size() - 1);\n"
    "}\n";

constexpr const char kSql[] =
    "CREATE TABLE customers (\n"
    "  id INTEGER PRIMARY KEY,\n"
    "  name TEXT NOT NULL,\n"
    "  city TEXT NOT NULL\n"
    ");\n"
    "CREATE INDEX customers_by_city ON customers (city);\n"
    "INSERT INTO customers (name, city) VALUES ('Ada', 'London');\n"
    "INSERT INTO customers (name, city) VALUES ('Emil', 'Zurich');\n"
    "SELECT city, COUNT(*) FROM customers GROUP BY city ORDER BY city;\n";

constexpr const char kJavaScript[] =
    "const cache = new Map();\n"
    "\n"
    "export async function loadUser(id) {\n"
    "  if (cache.has(id)) return cache.get(id);\n"
    "  const response = await fetch('/users/' + id);\n"
    "  if (!response.ok) throw new Error('no user ' + id);\n"
    "  const user = await response.json();\n"
    "  cache.set(id, user);\n"
    "  return user;\n"
    "}\n"
    "\n"
    "export function forgetUser(id) {\n"
    "  cache.delete(id);\n"
    "}\n";

constexpr const char kJava[] =
    "public class Account {\n"
    "  private long balance = 0;\n"
    "\n"
    "  public void deposit(long cents) {\n"
    "    if (cents <= 0) throw new IllegalArgumentException(\"cents\");\n"
    "    balance += cents;\n"
    "  }\n"
    "\n"
    "  public boolean withdraw(long cents) {\n"
    "    if (cents > balance) return false;\n"
    "    balance -= cents;\n"
    "    return true;\n"
    "  }\n"
    "}\n";

constexpr const char kGo[] =
    "package main\n"
    "\n"
    "import \"fmt\"\n"
    "\n"
    "func largest(numbers []int) int {\n"
    "\tbest := numbers[0]\n"
    "\tfor _, n := range numbers {\n"
    "\t\tif n > best {\n"
    "\t\t\tbest = n\n"
    "\t\t}\n"
    "\t}\n"
    "\treturn best\n"
    "}\n"
    "\n"
    "func main() {\n"
    "\tfmt.Println(largest([]int{3, 9, 4}))\n"
    "}\n";

constexpr const char kHtml[] =
    "<form action=\"/order\" method=\"post\">\n"
    "  <label for=\"name\">Name</label>\n"
    "  <input id=\"name\" name=\"name\" required>\n"
    "  <label for=\"street\">Street</label>\n"
    "  <input id=\"street\" name=\"street\" required>\n"
    "  <label for=\"city\">City</label>\n"
    "  <input id=\"city\" name=\"city\" required>\n"
    "  <button type=\"submit\">Order</button>\n"
    "</form>\n";

constexpr const char kShell[] =
    "#!/bin/bash\n"
    "set -euo pipefail\n"
    "target=/var/backups\n"
    "day=$(date +%F)\n"
    "mkdir -p \"$target/$day\"\n"
    "for folder in /etc /home /srv; do\n"
    "  tar -czf \"$target/$day/$(basename \"$folder\").tar.gz\" \"$folder\"\n"
    "done\n"
    "find \"$target\" -maxdepth 1 -mtime +30 -exec rm -r {} +\n"
    "echo \"saved to $target/$day\"\n";

}  // namespace tutti
